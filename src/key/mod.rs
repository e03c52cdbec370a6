//! What decides whether something that was built before can be used again: the record of all inputs, and its digest, the key.
//!
//! [`KeyRecord`] is the record; [`component`] is what a workspace's manifest says about its components,
//! [`lock`] what its lock files say, [`template`] what the `cache:` block calls a key. All are plain data: reading those files is `config`'s, hashing sources the engine's.

pub mod component;
pub mod lock;
mod record;
mod secret_name;
pub mod template;
mod template_key;

pub(crate) use self::component::is_name;
pub use self::component::{Component, ComponentName, Platform, Workspace};
pub use self::lock::{Lock, LockedComponent, Mode};
pub use self::record::{ComponentKey, Dependency, FilesKey, KeyRecord, Sources};
pub use self::template_key::{KeyPart, TemplateKey, text_of};

/// The platform that this program runs on, in the words of Rust's targets: `linux-x86_64`.
pub fn native_platform() -> String {
    format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH)
}
