//! A body from one encoding to the other. MessagePack bin <-> `{"$base64":"…"}`.
//!
//! Only bodies that were checked when they came in arrive here: nested at most 32 deep, so recursion is bounded, and
//! with nothing that JSON cannot say. What does not parse all the same becomes `null`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::msgpack::{Kind, header};

const BASE64_KEY: &str = "$base64";

/// Appends the MessagePack form of a JSON value.
pub fn json_to_msgpack(json: &[u8], out: &mut Vec<u8>) {
    match serde_json::from_slice::<Value>(json) {
        Ok(value) => pack(&value, out),
        Err(_) => out.push(0xc0),
    }
}

fn pack(value: &Value, out: &mut Vec<u8>) {
    // Writing to memory cannot fail: every result below is that of an infallible write.
    match value {
        Value::Null => out.push(0xc0),
        Value::Bool(b) => out.push(0xc2 | u8::from(*b)),
        Value::Number(n) => {
            let _ = match (n.as_u64(), n.as_i64()) {
                (Some(n), _) => rmp::encode::write_uint(out, n).map(drop),
                (None, Some(n)) => rmp::encode::write_sint(out, n).map(drop),
                (None, None) => rmp::encode::write_f64(out, n.as_f64().unwrap_or_default()),
            };
        }
        Value::String(text) => drop(rmp::encode::write_str(out, text)),
        Value::Array(items) => {
            let _ = rmp::encode::write_array_len(out, items.len() as u32);
            items.iter().for_each(|item| pack(item, out));
        }
        Value::Object(map) => {
            if let Some(bytes) = as_base64(map) {
                let _ = rmp::encode::write_bin(out, &bytes);
                return;
            }
            let _ = rmp::encode::write_map_len(out, map.len() as u32);
            for (key, item) in map {
                let _ = rmp::encode::write_str(out, key);
                pack(item, out);
            }
        }
    }
}

fn as_base64(map: &serde_json::Map<String, Value>) -> Option<Vec<u8>> {
    if map.len() != 1 {
        return None;
    }
    STANDARD.decode(map.get(BASE64_KEY)?.as_str()?).ok()
}

/// Appends the JSON form of a MessagePack value.
pub fn msgpack_to_json(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    if unpack(bytes, 0, out).is_none() {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

/// Writes the value at `at`; returns the index after it.
fn unpack(bytes: &[u8], at: usize, out: &mut Vec<u8>) -> Option<usize> {
    let head = header(bytes, at).ok()?;
    let content = bytes.get(head.start..head.end)?;
    match head.kind {
        Kind::Container { map, items } => {
            out.push(if map { b'{' } else { b'[' });
            let mut end = head.end;
            for index in 0..items {
                let separator: &[u8] = match (index, map && index % 2 == 1) {
                    (0, _) => b"",
                    (_, true) => b":",
                    (_, false) => b",",
                };
                out.extend_from_slice(separator);
                end = unpack(bytes, end, out)?;
            }
            out.push(if map { b'}' } else { b']' });
            return Some(end);
        }
        Kind::Text => serde_json::to_writer(&mut *out, std::str::from_utf8(content).ok()?).ok()?,
        Kind::Bin => {
            out.extend_from_slice(b"{\"");
            out.extend_from_slice(BASE64_KEY.as_bytes());
            out.extend_from_slice(b"\":\"");
            out.extend_from_slice(STANDARD.encode(content).as_bytes());
            out.extend_from_slice(b"\"}");
        }
        Kind::Plain => scalar(&bytes[at..head.end], out)?,
        Kind::Ext | Kind::NotFinite => return None,
    }
    Some(head.end)
}

fn scalar(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match bytes.first()? {
        0xc0 => out.extend_from_slice(b"null"),
        0xc2 => out.extend_from_slice(b"false"),
        0xc3 => out.extend_from_slice(b"true"),
        // A single keeps its shortest decimal form: 0.1, not 0.10000000149011612.
        0xca => serde_json::to_writer(out, &rmp_serde::from_slice::<f32>(bytes).ok()?).ok()?,
        0xcb => serde_json::to_writer(out, &rmp_serde::from_slice::<f64>(bytes).ok()?).ok()?,
        0xcc..=0xcf | 0x00..=0x7f => serde_json::to_writer(out, &rmp_serde::from_slice::<u64>(bytes).ok()?).ok()?,
        _ => serde_json::to_writer(out, &rmp_serde::from_slice::<i64>(bytes).ok()?).ok()?,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(json: &str) -> String {
        let (mut packed, mut back) = (Vec::new(), Vec::new());
        json_to_msgpack(json.as_bytes(), &mut packed);
        msgpack_to_json(&packed, &mut back);
        String::from_utf8(back).unwrap()
    }

    #[test]
    fn a_json_body_survives_the_way_through_messagepack() {
        for json in [
            "null",
            "true",
            "[]",
            "{}",
            "0",
            "-1",
            "18446744073709551615",
            "-9223372036854775808",
            "0.1",
            "1e+300",
            r#""a\"b\\\n🦀""#,
            "1.7976931348623157e+308",
            "5e-324",
            "0.30000000000000004",
            "4.35",
            r#"{"z":1,"a":[{"b":null}]}"#,
            r#"{"$base64":"AAEC/w=="}"#,
            r#"{"$base64":"AA==","more":1}"#,
            r#"{"$base64":5}"#,
            r#"{"$base64":"not base64!"}"#,
        ] {
            assert_eq!(there_and_back(json), json);
        }
    }

    /// Some doubles came back one unit off, and the largest became `null`.
    #[test]
    fn every_double_survives_and_what_passes_the_check_can_be_said() {
        let mut bits = 0x0123_4567_89ab_cdef_u64;
        for _ in 0..20_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let double = f64::from_bits(bits);
            if double.is_finite() {
                let json = serde_json::to_string(&double).unwrap();
                assert_eq!(there_and_back(&json).parse::<f64>().unwrap().to_bits(), bits, "{json}");
            }
        }
        let longest = "1.7976931348623158e308";
        let scan = crate::client::json::skip_value(longest.as_bytes(), 0, 1).unwrap();
        assert_eq!(scan.refusal, None);
        assert_eq!(there_and_back(longest), "1.7976931348623157e+308");
    }

    #[test]
    fn bytes_become_base64_and_bytes_again() {
        let mut json = Vec::new();
        msgpack_to_json(b"\xc4\x04\x00\x01\x02\xff", &mut json);
        assert_eq!(json, br#"{"$base64":"AAEC/w=="}"#);
        let mut packed = Vec::new();
        json_to_msgpack(&json, &mut packed);
        assert_eq!(packed, b"\xc4\x04\x00\x01\x02\xff");
    }

    #[test]
    fn a_single_keeps_its_shortest_form() {
        let mut json = Vec::new();
        msgpack_to_json(b"\xca\x3d\xcc\xcc\xcd", &mut json);
        assert_eq!(json, b"0.1");
    }
}
