//! Selecting files: globs and lists of paths to a [`FileSet`], in the order in which archives store them.
//!
//! Rules: every path is relative and below the root once `.` and `..` are resolved as text; a listed or matched folder
//! means everything below it; folders between the root and an entry are entries of their own; nothing is followed.
//! Sockets, FIFOs and devices are left out and counted.

mod fileset;
mod gitignore;
mod globs;
mod list;
mod select;
mod stat;
pub mod walk;
mod whole;

pub(crate) use fileset::path_order;
pub use fileset::{Entry, FileSet, Kind, leads_out, links_warning};
pub use globs::Globs;
pub use select::{Selected, Source, select};
pub use stat::{same_file, stamp};
pub(crate) use walk::open_through_no_link;
pub use whole::{RootOf, whole_tree, whole_trees};
pub(crate) use whole::{link_text, special_warning};
