//! The one hash of the fleet: SipHash-2-4 with a zero key. Its values are published in `vectors/`, for other languages.

use std::hash::Hasher as _;

use protocol::Tag;
use siphasher::sip::SipHasher24;

/// The hash of bytes.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write(bytes);
    hasher.finish()
}

/// The tag of a message: the hash of its sender's address, a zero byte, and its id. Only retries look at it.
pub fn tag(from: &str, id: &str) -> Tag {
    let mut hasher = SipHasher24::new();
    hasher.write(from.as_bytes());
    hasher.write(&[0]);
    hasher.write(id.as_bytes());
    Tag(hasher.finish())
}
