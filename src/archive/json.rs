//! BSON as JSON for the fold: integers and doubles are numbers, a date is what Extended JSON makes of it.

use bson::{Bson, Document};
use serde_json::{Map, Number, Value};

/// The document, and its size as BSON in bytes.
pub(super) fn of_document(document: Document) -> (Value, u64) {
    let mut size = 0;
    let value = object(document, &mut size);
    (value, size)
}

/// The length of a document, and the zero after its last element.
const FRAME: u64 = 5;

fn object(document: Document, size: &mut u64) -> Value {
    *size += FRAME;
    let mut object = Map::new();
    for (key, value) in document {
        // The element's type, and the zero after the key.
        *size += key.len() as u64 + 2;
        object.insert(key, of_bson(value, size));
    }
    Value::Object(object)
}

fn of_bson(value: Bson, size: &mut u64) -> Value {
    match value {
        Bson::Document(document) => object(document, size),
        Bson::Array(values) => {
            *size += FRAME;
            let item = |value| {
                *size += 3;
                of_bson(value, size)
            };
            Value::Array(values.into_iter().map(item).collect())
        }
        Bson::String(text) => {
            *size += text.len() as u64 + FRAME;
            Value::String(text)
        }
        Bson::Boolean(value) => {
            *size += 1;
            Value::Bool(value)
        }
        Bson::Int32(value) => {
            *size += 4;
            Value::Number(value.into())
        }
        Bson::Int64(value) => {
            *size += 8;
            Value::Number(value.into())
        }
        Bson::Double(value) => {
            *size += 8;
            Number::from_f64(value).map_or(Value::Null, Value::Number)
        }
        // None of ours but the date; as long as the longest of them.
        other => {
            *size += 12;
            serde_json::to_value(other).unwrap_or(Value::Null)
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn numbers_stay_numbers_and_the_size_is_that_of_the_bson() {
        let document = doc! {
            "text": "Zoë", "yes": true, "int": 7, "long": i64::MAX, "double": 4.5, "list": [1, "2", { "x": 3.0 }],
            "nested": { "seconds": 1.795_301_026e9, "empty": {} },
        };
        let mut bytes = Vec::new();
        document.to_writer(&mut bytes).unwrap();
        let (value, size) = of_document(document);
        assert_eq!(size, bytes.len() as u64);
        assert_eq!(
            value,
            serde_json::json!({
                "text": "Zoë", "yes": true, "int": 7, "long": i64::MAX, "double": 4.5, "list": [1, "2", { "x": 3.0 }],
                "nested": { "seconds": 1_795_301_026.0, "empty": {} },
            })
        );
        assert_eq!(of_document(doc! { "nan": f64::NAN }).0, serde_json::json!({ "nan": null }));
    }
}
