//! JSON in its one canonical text, RFC 8785, of values without numbers.
//!
//! Hashed records hold objects, arrays, texts, `null` and `true` only, so that no number's formatting and no default can
//! ever matter. Keys are sorted by their UTF-16 units, as the RFC demands.

use serde_json::Value;

use crate::error::{Error, Result};

/// The canonical bytes of a value. A number or `false` in it is an error of class `Damaged`: such a record is none of ours.
pub fn canonical(value: &Value) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    write(value, &mut out)?;
    Ok(out)
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<()> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push(b'{');
            for (index, (key, item)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_text(key, out);
                out.push(b':');
                write(item, out)?;
            }
            out.push(b'}');
        }
        Value::Bool(false) | Value::Number(_) => {
            return Err(Error::damaged("a hashed record holds a number or `false`, and none ever does"));
        }
    }
    Ok(())
}

/// RFC 8785 §3.2.2.2: the short escapes where there are some, `\u00xx` for other control characters, all else as it is.
fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            0x00..=0x1f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_by_their_utf_16_units_and_nothing_stands_between() {
        let value =
            json!({ "b": ["x", null, true], "a": {}, "\u{fb33}": "1", "\u{1f600}": "2", "\r": "\u{1}\"\\\n/é" });
        let text = String::from_utf8(canonical(&value).unwrap()).unwrap();
        assert_eq!(
            text,
            "{\"\\r\":\"\\u0001\\\"\\\\\\n/é\",\"a\":{},\"b\":[\"x\",null,true],\"\u{1f600}\":\"2\",\"\u{fb33}\":\"1\"}"
        );
    }

    #[test]
    fn numbers_and_false_are_no_part_of_a_hashed_record() {
        for value in [json!(1), json!([false]), json!({ "a": 1.5 })] {
            assert!(canonical(&value).is_err(), "{value}");
        }
    }
}
