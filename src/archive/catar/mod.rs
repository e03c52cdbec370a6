//! catar: the archive of casync and desync, a folder as one stream of elements.
//!
//! ```text
//! archive = node of a folder
//! node    = ENTRY, metadata, then PAYLOAD (file) | SYMLINK | DEVICE | nothing (FIFO, socket) | (FILENAME node)* GOODBYE (folder)
//! ```
//!
//! Each element is its length, its type, and a body; all numbers are little-endian words of 64 bits. GOODBYE lists what is
//! in the folder as a search tree over hashes of the names. Names come in byte order, which casync's reader relies on.
//!
//! We write what desync writes from a folder, to the byte ([`FLAGS`]), so that chunks are shared with its archives, and leave
//! out what the two programs understand differently: extended attributes (one ends their value with a NUL), FIFOs and sockets
//! (desync makes folders of them). A hard link becomes a file of its own.

pub mod layout;
pub mod read;

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::chunk::{Digest, SHA512_256};

const ENTRY: u64 = 0x1396_fabc_ea5b_bb51;
const FILENAME: u64 = 0x6dbb_6ebc_b316_1f0b;
const PAYLOAD: u64 = 0x8b9e_1d93_d6dc_ffc9;
const SYMLINK: u64 = 0x664a_6fb6_830e_0d6c;
const DEVICE: u64 = 0xac3d_ace3_69df_e643;
const GOODBYE: u64 = 0xdfd3_5c5e_8327_c403;
/// Marks the last item of a GOODBYE.
const GOODBYE_TAIL: u64 = 0x5744_6fa5_3370_2943;

/// Metadata that we read past: owners' names, extended attributes, access lists, security labels, quotas.
const METADATA: [u64; 11] = [
    0xf453_131a_aeea_ccb3, // USER
    0x25eb_6ac9_6939_6a52, // GROUP
    0xb815_7091_f80b_c486, // XATTR
    0x297d_c88b_2ef1_2faf, // ACL_USER
    0x36f2_acb5_6cb3_dd0b, // ACL_GROUP
    0x2304_7110_441f_38f3, // ACL_GROUP_OBJ
    0xfe3e_eda6_823c_8cd0, // ACL_DEFAULT
    0xbdf0_3df9_bd01_0a91, // ACL_DEFAULT_USER
    0xa0cb_1168_782d_1f51, // ACL_DEFAULT_GROUP
    0x46fa_f060_2fd2_6c59, // SELINUX
    0xf726_7db0_afed_0629, // FCAPS
];
/// Another one, named apart because casync alone writes it.
const QUOTA_PROJID: u64 = 0x161b_af2d_8772_a72b;

const HEADER_LEN: u64 = 16;
const ENTRY_LEN: u64 = 64;
const GOODBYE_ITEM_LEN: usize = 24;

/// What our archives say that they hold: numeric owners, times in nanoseconds, permissions, links, devices, FIFOs, sockets,
/// extended attributes; SHA-512/256; and that `.caexclude` and the nodump attribute were honoured.
///
/// It claims more than there is, because every entry carries it: with these bits an entry is the same bytes as desync's, and
/// casync demands that an index and its archive agree.
///
/// The digest's bit is set whether or not there are chunks: it says by what an index of the archive would name them.
pub const FLAGS: u64 = 0xb000_0000_1000_1f22;

/// The same for an archive whose chunks are named by this digest.
pub fn flags(digest: Digest) -> u64 {
    match digest {
        Digest::Sha512_256 => FLAGS,
        Digest::Sha256 => FLAGS & !SHA512_256,
    }
}

/// Whether a stream begins like a catar.
pub fn is_catar(head: &[u8]) -> bool {
    head.starts_with(&ENTRY_LEN.to_le_bytes()) && head[8..].starts_with(&ENTRY.to_le_bytes())
}

/// The hash of a name in a GOODBYE: SipHash-2-4 under casync's key.
fn name_hash(name: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(0x8574_442b_0f1d_84b3, 0x2736_ed30_d1c2_2ec1);
    hasher.write(name);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hash_as_casyncs_do() {
        for (name, hash) in [
            ("a", 0x51ba_5a19_e058_c7ad),
            ("b", 0x9007_6953_95e7_df8f),
            ("f1", 0xb8da_b282_318c_43c9),
            ("sub", 0xebfe_9356_98c3_deec),
            ("emptydir", 0x8266_798b_d9be_9043),
        ] {
            assert_eq!(name_hash(name.as_bytes()), hash, "{name}");
        }
    }
}
