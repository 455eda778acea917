//! Finds where a JSON value ends, without recursion and without building it.
//!
//! What passes here is valid JSON: a body goes on to other people's parsers as it came.

use super::fields::{Malformed, Refusal};

/// What a scan found besides the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Index after the value.
    pub end: usize,
    /// Why the value cannot go to a client that speaks MessagePack.
    pub refusal: Option<Refusal>,
}

pub(crate) fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Scans one value that starts at `at` (no space before it), with at most `depth_max` containers within each other.
///
/// # Errors
/// [`Malformed`]: not JSON, or nested deeper.
pub fn skip_value(bytes: &[u8], at: usize, depth_max: u32) -> Result<Scan, Malformed> {
    let mut scanner = Scanner { bytes, at, objects: 0, depth: 0, depth_max, refusal: None };
    scanner.run()?;
    Ok(Scan { end: scanner.at, refusal: scanner.refusal })
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    /// One bit a level, the innermost lowest: set if it is an object. `depth_max` is below 64.
    objects: u64,
    depth: u32,
    depth_max: u32,
    refusal: Option<Refusal>,
}

impl Scanner<'_> {
    fn run(&mut self) -> Result<(), Malformed> {
        loop {
            // A value is due here.
            match self.bytes.get(self.at).ok_or(Malformed::Truncated)? {
                b'{' => {
                    self.open(true)?;
                    if self.peek_after_space() == Some(b'}') {
                        self.at += 1;
                        self.close();
                    } else {
                        self.key()?;
                        continue;
                    }
                }
                b'[' => {
                    self.open(false)?;
                    if self.peek_after_space() == Some(b']') {
                        self.at += 1;
                        self.close();
                    } else {
                        continue;
                    }
                }
                b'"' => self.at = skip_string(self.bytes, self.at)?,
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                _ => self.number()?,
            }
            // A value has ended: close what ends with it, until another one is due.
            loop {
                if self.depth == 0 {
                    return Ok(());
                }
                let in_object = self.objects & 1 == 1;
                match self.peek_after_space().ok_or(Malformed::Truncated)? {
                    b',' => {
                        self.at = skip_space(self.bytes, self.at + 1);
                        if in_object {
                            self.key()?;
                        }
                        break;
                    }
                    b'}' if in_object => {
                        self.at += 1;
                        self.close();
                    }
                    b']' if !in_object => {
                        self.at += 1;
                        self.close();
                    }
                    _ => return Err(Malformed::Syntax),
                }
            }
        }
    }

    fn open(&mut self, object: bool) -> Result<(), Malformed> {
        if self.depth >= self.depth_max.min(63) {
            return Err(Malformed::Depth);
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u64::from(object);
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
    }

    fn peek_after_space(&mut self) -> Option<u8> {
        self.at = skip_space(self.bytes, self.at);
        self.bytes.get(self.at).copied()
    }

    /// A key and its colon; the value is due after it.
    fn key(&mut self) -> Result<(), Malformed> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return Err(if self.at >= self.bytes.len() { Malformed::Truncated } else { Malformed::Syntax });
        }
        self.at = skip_string(self.bytes, self.at)?;
        match self.peek_after_space() {
            Some(b':') => {
                self.at = skip_space(self.bytes, self.at + 1);
                Ok(())
            }
            Some(_) => Err(Malformed::Syntax),
            None => Err(Malformed::Truncated),
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Malformed> {
        if self.bytes[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(())
        } else {
            Err(Malformed::Syntax)
        }
    }

    fn number(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        let digits = |from: usize| {
            let count = self.bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
            if count == 0 { Err(Malformed::Syntax) } else { Ok(from + count) }
        };
        let mut at = start + usize::from(self.bytes[start] == b'-');
        let first = at;
        at = digits(at)?;
        if self.bytes[first] == b'0' && at > first + 1 {
            return Err(Malformed::Syntax);
        }
        if self.bytes.get(at) == Some(&b'.') {
            at = digits(at + 1)?;
        }
        let mut exponent = false;
        if matches!(self.bytes.get(at), Some(b'e' | b'E')) {
            exponent = true;
            at += 1;
            at += usize::from(matches!(self.bytes.get(at), Some(b'+' | b'-')));
            at = digits(at)?;
        }
        self.at = at;
        // Only a number with an exponent or with more than 308 digits can be too large for a double.
        if (exponent || at - start > 308)
            && !std::str::from_utf8(&self.bytes[start..at])
                .ok()
                .and_then(|t| t.parse::<f64>().ok())
                .is_some_and(f64::is_finite)
        {
            self.refusal = Some(Refusal::NotFinite);
        }
        Ok(())
    }
}

/// Scans a string that starts with the quote at `at`; returns the index after its end.
pub(crate) fn skip_string(bytes: &[u8], at: usize) -> Result<usize, Malformed> {
    let mut at = at + 1;
    loop {
        match bytes.get(at).ok_or(Malformed::Truncated)? {
            b'"' => return Ok(at + 1),
            b'\\' => at = skip_escape(bytes, at)?,
            0..=0x1f => return Err(Malformed::Syntax),
            _ => at += 1,
        }
    }
}

fn skip_escape(bytes: &[u8], at: usize) -> Result<usize, Malformed> {
    match bytes.get(at + 1).ok_or(Malformed::Truncated)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(at + 2),
        b'u' => {
            let unit = hex4(bytes, at + 2)?;
            match unit {
                // A surrogate without its partner is no character: a strict parser behind us would refuse it.
                0xd800..=0xdbff => {
                    let pair = bytes.get(at + 6..at + 8) == Some(b"\\u");
                    if pair && matches!(hex4(bytes, at + 8)?, 0xdc00..=0xdfff) {
                        Ok(at + 12)
                    } else {
                        Err(Malformed::Syntax)
                    }
                }
                0xdc00..=0xdfff => Err(Malformed::Syntax),
                _ => Ok(at + 6),
            }
        }
        _ => Err(Malformed::Syntax),
    }
}

fn hex4(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let digits = bytes.get(at..at + 4).ok_or(Malformed::Truncated)?;
    digits.iter().try_fold(0, |n, &b| char::from(b).to_digit(16).map(|d| n << 4 | d)).ok_or(Malformed::Syntax)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Result<Scan, Malformed> {
        skip_value(text.as_bytes(), 0, 32)
    }

    /// Goal: the scanner and serde_json agree on what is JSON. Method: a table of both kinds.
    #[test]
    fn what_passes_is_what_a_strict_parser_takes() {
        let table = [
            "0",
            "-0",
            "10",
            "1.5e+3",
            "-1E-2",
            "\"\"",
            "\"a\\n\\u00e9\\ud83e\\udd80\"",
            "true",
            "false",
            "null",
            "[]",
            "{}",
            "[1,[2,{\"a\":[]}],\"x\"]",
            "{ \"a\" : 1 , \"b\" : [ ] }",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "tru",
            "nul",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud800\\u0041\"",
            "\"a",
            "[1,]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":1,}",
            "{a:1}",
            "[",
            "{",
            "\"\t\"",
            "NaN",
            "Infinity",
            "'a'",
            "{\"a\":1]",
            "[1}",
            "[\"\\u12\"]",
        ];
        for text in table {
            let strict = serde_json::from_str::<serde_json::Value>(text).is_ok();
            let ours = whole(text).is_ok_and(|scan| scan.end == text.len());
            assert_eq!(ours, strict, "{text}");
        }
    }

    #[test]
    fn depth_is_counted_and_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(whole(&nested(32)).is_ok());
        assert_eq!(whole(&nested(33)), Err(Malformed::Depth));
        assert_eq!(whole(&"[".repeat(100_000)), Err(Malformed::Depth));
        let objects = format!("{}1{}", "{\"a\":".repeat(33), "}".repeat(33));
        assert_eq!(whole(&objects), Err(Malformed::Depth));
    }

    #[test]
    fn a_number_too_large_for_a_double_is_refused_as_a_body_only() {
        assert_eq!(whole("1e999").unwrap().refusal, Some(Refusal::NotFinite));
        assert_eq!(whole(&"9".repeat(400)).unwrap().refusal, Some(Refusal::NotFinite));
        assert_eq!(whole("123456789012345678901234567890").unwrap().refusal, None);
    }
}
