//! What a body of the load says: which message it is, and from when its latency counts.
//!
//! A JSON string of fixed form, so that it is read without a parser: `"`, 16 hexadecimal digits of the number, 16 of the
//! moment, filling, `"`. Every server passes a string through as it is.

/// Quotes and two numbers.
pub(crate) const BYTES_MIN: usize = 34;

/// Writes a body of exactly `bytes` bytes, at least [`BYTES_MIN`].
pub(crate) fn write(n: u64, at_ns: u64, bytes: usize, out: &mut Vec<u8>) {
    out.clear();
    out.push(b'"');
    hex(n, out);
    hex(at_ns, out);
    out.resize(bytes.max(BYTES_MIN) - 1, b'x');
    out.push(b'"');
}

/// Number and moment; `None` for a body that is not of this form.
pub(crate) fn read(body: &[u8]) -> Option<(u64, u64)> {
    let inner = body.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    Some((unhex(inner.get(..16)?)?, unhex(inner.get(16..32)?)?))
}

fn hex(value: u64, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend((0..16).rev().map(|place| DIGITS[(value >> (place * 4) & 15) as usize]));
}

fn unhex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value: u64, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_its_size_and_is_read_back() {
        let mut out = Vec::new();
        for bytes in [BYTES_MIN, 200] {
            write(7, u64::MAX, bytes, &mut out);
            assert_eq!(out.len(), bytes);
            assert_eq!(read(&out), Some((7, u64::MAX)));
            assert!(serde_json::from_slice::<String>(&out).is_ok());
        }
    }

    #[test]
    fn other_bodies_are_not_taken_for_ours() {
        for body in ["\"\"", "7", "\"0000\"", "\"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz\""] {
            assert_eq!(read(body.as_bytes()), None);
        }
    }
}
