//! Finds where a MessagePack value ends, without recursion and without building it.

use super::fields::{Malformed, Refusal};
use super::json::Scan;

/// Scans one value that starts at `at`, with at most `depth_max` containers within each other.
///
/// # Errors
/// [`Malformed`]: the bytes end early, a marker that is none, text that is not UTF-8, or nested deeper.
pub fn skip_value(bytes: &[u8], at: usize, depth_max: u32) -> Result<Scan, Malformed> {
    let mut open = [Level::default(); 64];
    let mut depth = 0;
    let mut scan = Scan { end: at, refusal: None };
    loop {
        let is_key = depth > 0 && open[depth - 1].map && open[depth - 1].left.is_multiple_of(2);
        let head = header(bytes, scan.end)?;
        scan.end = head.end;
        match head.kind {
            Kind::Container { map, items } => {
                if depth >= depth_max.min(63) as usize {
                    return Err(Malformed::Depth);
                }
                // Every item has at least one byte, so a length that lies is found before anything is believed.
                if items > (bytes.len() - scan.end) as u64 {
                    return Err(Malformed::Truncated);
                }
                if is_key {
                    scan.refusal = scan.refusal.or(Some(Refusal::Key));
                }
                open[depth] = Level { left: items, map };
                depth += 1;
            }
            kind => {
                if is_key && kind != Kind::Text {
                    scan.refusal = scan.refusal.or(Some(Refusal::Key));
                }
                match kind {
                    Kind::Ext => scan.refusal = scan.refusal.or(Some(Refusal::Ext)),
                    Kind::NotFinite => scan.refusal = scan.refusal.or(Some(Refusal::NotFinite)),
                    _ => {}
                }
                if depth > 0 {
                    open[depth - 1].left -= 1;
                }
            }
        }
        while depth > 0 && open[depth - 1].left == 0 {
            depth -= 1;
            if depth > 0 {
                open[depth - 1].left -= 1;
            }
        }
        if depth == 0 {
            return Ok(scan);
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Level {
    /// Values still due; of a map two an entry.
    left: u64,
    map: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Container {
        map: bool,
        items: u64,
    },
    Text,
    Bin,
    Ext,
    NotFinite,
    /// nil, booleans, finite numbers
    Plain,
}

pub(crate) struct Head {
    pub(crate) kind: Kind,
    /// Where the content of a text or bin starts.
    pub(crate) start: usize,
    /// After the value; of a container after its header.
    pub(crate) end: usize,
}

/// Reads the header at `at`, and for anything but a container steps over the content.
pub(crate) fn header(bytes: &[u8], at: usize) -> Result<Head, Malformed> {
    let marker = *bytes.get(at).ok_or(Malformed::Truncated)?;
    let number = |size: usize| -> Result<u64, Malformed> {
        let raw = bytes.get(at + 1..at + 1 + size).ok_or(Malformed::Truncated)?;
        Ok(raw.iter().fold(0, |n, &b| n << 8 | u64::from(b)))
    };
    let content = |kind: Kind, size: usize, length: u64, extra: u64| -> Result<Head, Malformed> {
        let start = at + 1 + size;
        let end = start as u64 + length + extra;
        if end > bytes.len() as u64 {
            return Err(Malformed::Truncated);
        }
        let end = end as usize;
        if kind == Kind::Text && std::str::from_utf8(&bytes[start..end]).is_err() {
            return Err(Malformed::NotUtf8);
        }
        Ok(Head { kind, start, end })
    };
    let container = |map: bool, size: usize, count: u64| -> Result<Head, Malformed> {
        let end = at + 1 + size;
        Ok(Head { kind: Kind::Container { map, items: if map { count * 2 } else { count } }, start: end, end })
    };
    let plain = |size: u64| content(Kind::Plain, 0, size, 0);
    match marker {
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => plain(0),
        0x80..=0x8f => container(true, 0, u64::from(marker & 0x0f)),
        0x90..=0x9f => container(false, 0, u64::from(marker & 0x0f)),
        0xa0..=0xbf => content(Kind::Text, 0, u64::from(marker & 0x1f), 0),
        0xc1 => Err(Malformed::Syntax),
        0xc4..=0xc6 => {
            let size = 1 << (marker - 0xc4);
            content(Kind::Bin, size, number(size)?, 0)
        }
        0xc7..=0xc9 => {
            let size = 1 << (marker - 0xc7);
            content(Kind::Ext, size, number(size)?, 1)
        }
        0xca => {
            let finite = f32::from_bits(number(4)? as u32).is_finite();
            content(if finite { Kind::Plain } else { Kind::NotFinite }, 0, 4, 0)
        }
        0xcb => {
            let finite = f64::from_bits(number(8)?).is_finite();
            content(if finite { Kind::Plain } else { Kind::NotFinite }, 0, 8, 0)
        }
        0xcc..=0xcf => plain(1 << (marker - 0xcc)),
        0xd0..=0xd3 => plain(1 << (marker - 0xd0)),
        0xd4..=0xd8 => content(Kind::Ext, 0, 1 << (marker - 0xd4), 1),
        0xd9..=0xdb => {
            let size = 1 << (marker - 0xd9);
            content(Kind::Text, size, number(size)?, 0)
        }
        0xdc..=0xdd => {
            let size = 2 << (marker - 0xdc);
            container(false, size, number(size)?)
        }
        0xde..=0xdf => {
            let size = 2 << (marker - 0xde);
            container(true, size, number(size)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> Result<Scan, Malformed> {
        skip_value(bytes, 0, 32)
    }

    #[test]
    fn every_marker_is_stepped_over_exactly() {
        let table: &[&[u8]] = &[
            b"\x00",
            b"\x7f",
            b"\xff",
            b"\xc0",
            b"\xc2",
            b"\xc3",
            b"\xa3abc",
            b"\xd9\x01a",
            b"\xda\0\x01a",
            b"\xdb\0\0\0\x01a",
            b"\xc4\x01a",
            b"\xc5\0\x01a",
            b"\xc6\0\0\0\x01a",
            b"\xcc\x01",
            b"\xcd\0\x01",
            b"\xce\0\0\0\x01",
            b"\xcf\0\0\0\0\0\0\0\x01",
            b"\xd0\x01",
            b"\xd1\0\x01",
            b"\xd2\0\0\0\x01",
            b"\xd3\0\0\0\0\0\0\0\x01",
            b"\xca\x3f\x80\0\0",
            b"\xcb\x3f\xf0\0\0\0\0\0\0",
            b"\x90",
            b"\x92\x01\x91\x02",
            b"\xdc\0\x01\xc0",
            b"\xdd\0\0\0\x01\xc0",
            b"\x80",
            b"\x82\xa1a\x01\xa1b\x90",
            b"\xde\0\x01\xa1a\xc0",
            b"\xdf\0\0\0\x01\xa1a\xc0",
        ];
        for bytes in table {
            assert_eq!(whole(bytes), Ok(Scan { end: bytes.len(), refusal: None }), "{bytes:02x?}");
            for cut in 0..bytes.len() {
                assert_eq!(whole(&bytes[..cut]), Err(Malformed::Truncated), "{bytes:02x?} cut at {cut}");
            }
        }
    }

    #[test]
    fn lengths_that_lie_and_markers_that_are_none_are_found() {
        assert_eq!(whole(b"\xdd\xff\xff\xff\xff"), Err(Malformed::Truncated));
        assert_eq!(whole(b"\xdf\xff\xff\xff\xff"), Err(Malformed::Truncated));
        assert_eq!(whole(b"\xc6\xff\xff\xff\xff"), Err(Malformed::Truncated));
        assert_eq!(whole(b"\xc1"), Err(Malformed::Syntax));
        assert_eq!(whole(b"\xa1\xff"), Err(Malformed::NotUtf8));
        let mut deep = vec![0x91; 20_000];
        deep.push(0xc0);
        assert_eq!(whole(&deep), Err(Malformed::Depth));
    }

    #[test]
    fn what_json_cannot_say_is_named() {
        assert_eq!(whole(b"\xd4\x01a").unwrap().refusal, Some(Refusal::Ext));
        assert_eq!(whole(b"\xc7\x01\x05a").unwrap().refusal, Some(Refusal::Ext));
        assert_eq!(whole(b"\xca\x7f\xc0\0\0").unwrap().refusal, Some(Refusal::NotFinite));
        assert_eq!(whole(b"\x81\x01\x02").unwrap().refusal, Some(Refusal::Key));
        assert_eq!(whole(b"\x81\x90\x02").unwrap().refusal, Some(Refusal::Key));
        assert_eq!(whole(b"\x81\xa1a\x81\xa1b\x02").unwrap().refusal, None);
    }
}
