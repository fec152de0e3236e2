//! Odd cases, each with its defined result.

use bson::{Bson, doc};

use super::{delimited, document, encoder, varint};
use crate::{
    document::{
        DocumentContext, DocumentErrorReason, DocumentOptions, Encoder, Enums, Labels, MAX_DEPTH, MONGODB_MAX_DOCUMENT,
        WireType, expire_at,
    },
    record::{Stream, wire::BadWire},
};

fn entry(number: u32, key: &[u8], value: &[u8]) -> Vec<u8> {
    delimited(number, &[delimited(1, key), delimited(2, value)].concat())
}

fn failure(record: &[u8]) -> (String, DocumentErrorReason) {
    let error = document(&encoder(), record).unwrap_err();
    (error.path(), error.reason().clone())
}

#[test]
fn an_empty_record_is_an_empty_document() {
    assert_eq!(document(&encoder(), b"").unwrap(), doc! {});
}

#[test]
fn an_empty_message_is_an_empty_document_where_it_is_present() {
    assert_eq!(document(&encoder(), &delimited(17, b"")).unwrap(), doc! { "inner": {} });
    assert_eq!(document(&encoder(), &delimited(26, b"")).unwrap(), doc! { "TheChoice": { "Another": {} } });
}

#[test]
fn zero_is_absent_unless_the_field_has_presence() {
    let record = [varint(2, 0), varint(22, 0), varint(27, 0), delimited(15, b""), delimited(23, b"")].concat();
    let expected = doc! { "maybe_number": 0, "TheChoice": { "ANumber": 0 }, "maybe_text": "" };
    assert_eq!(document(&encoder(), &record).unwrap(), expected);
}

#[test]
fn keys_with_dots_dollars_and_nothing_stay_and_nul_becomes_a_sign() {
    let record: Vec<u8> = ["a.b", "$set", "", "x\0y"].iter().flat_map(|key| entry(28, key.as_bytes(), b"v")).collect();
    let expected = doc! { "by_text": { "a.b": "v", "$set": "v", "": "v", "x\u{2400}y": "v" } };
    assert_eq!(document(&encoder(), &record).unwrap(), expected);
}

#[test]
fn keys_of_other_kinds_become_text() {
    let by_bool = [delimited(30, &[varint(1, 1), varint(2, 7)].concat()), delimited(30, b"")].concat();
    assert_eq!(document(&encoder(), &by_bool).unwrap(), doc! { "by_bool": { "true": 7_i64, "false": 0_i64 } });
    let by_sint64 = delimited(31, &varint(1, u64::MAX));
    assert_eq!(document(&encoder(), &by_sint64).unwrap(), doc! { "by_sint64": { (i64::MIN.to_string()): 0.0 } });
    let by_uint64 = delimited(33, &varint(1, u64::MAX));
    assert_eq!(document(&encoder(), &by_uint64).unwrap(), doc! { "by_uint64": { (u64::MAX.to_string()): "" } });
}

#[test]
fn of_a_key_that_comes_twice_the_last_value_counts_in_small_maps_and_large() {
    for keys in [3, 40] {
        let first: Vec<u8> = (0..keys).flat_map(|key: i32| entry(28, key.to_string().as_bytes(), b"old")).collect();
        let again: Vec<u8> = (0..keys).flat_map(|key: i32| entry(28, key.to_string().as_bytes(), b"new")).collect();
        let document = document(&encoder(), &[first, again].concat()).unwrap();
        let map = document.get_document("by_text").unwrap();
        assert_eq!(map.len(), keys as usize);
        assert!(map.iter().all(|(_, value)| *value == Bson::String("new".into())));
    }
}

#[test]
fn nan_and_infinities_are_doubles() {
    let double = |value: f64| [&[13 << 3 | 1][..], &value.to_le_bytes()].concat();
    for value in [f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MIN_POSITIVE] {
        let document = document(&encoder(), &double(value)).unwrap();
        assert_eq!(document.get_f64("a_double").unwrap().to_bits(), value.to_bits());
    }
    assert!(document(&encoder(), &double(f64::NAN)).unwrap().get_f64("a_double").unwrap().is_nan());
}

#[test]
fn unsigned_values_above_i64_max_are_doubles() {
    assert_eq!(document(&encoder(), &varint(10, i64::MAX as u64)).unwrap(), doc! { "a_uint64": i64::MAX });
    assert_eq!(document(&encoder(), &varint(10, u64::MAX)).unwrap(), doc! { "a_uint64": u64::MAX as f64 });
}

#[test]
fn integers_of_32_bits_take_the_low_bits_of_their_varint() {
    assert_eq!(document(&encoder(), &varint(2, u64::MAX)).unwrap(), doc! { "an_int32": -1 });
    assert_eq!(document(&encoder(), &varint(5, u64::MAX)).unwrap(), doc! { "a_uint32": i64::from(u32::MAX) });
}

#[test]
fn an_enum_value_without_a_name_stays_a_number() {
    let record = super::everything();
    let options = DocumentOptions { enums: Enums::Names, ..DocumentOptions::default() };
    let encoder = Encoder::of(options, &[record.clone(), record.clone(), record]);
    let expected = doc! { "colours": ["RED", "NONE", 2, "BLUE"] };
    let record = [varint(21, 1), varint(21, 0), varint(21, 2), varint(21, u64::MAX)].concat();
    assert_eq!(document(&encoder, &record).unwrap(), expected);
}

#[test]
fn a_long_name_and_a_high_number_are_fields_like_others() {
    let far_away = [delimited(300, b"x"), delimited(536_870_911, &7_u64.to_le_bytes())].concat();
    let expected = doc! { "a_field_whose_name_is_longer_than_what_is_copied_at_once": "x", "far_away": [7_i64] };
    assert_eq!(document(&encoder(), &far_away).unwrap(), expected);
}

#[test]
fn a_message_with_more_fields_than_are_tracked_is_merged_all_the_same() {
    let fields: String = (1..=80).map(|n| format!("int32 f{n} = {n}; ")).collect();
    let source = format!("syntax = \"proto3\"; package wide; message Wide {{ {fields} repeated string all = 90; }}");
    let encoder = super::encoder_of(super::compiled(&source, "wide.Wide"));
    let record = [varint(1, 1), varint(80, 1), delimited(90, b"a"), varint(80, 2), varint(1, 3), delimited(90, b"b")];
    let expected = doc! { "f1": 3, "f80": 2, "all": ["a", "b"] };
    assert_eq!(document(&encoder, &record.concat()).unwrap(), expected);
}

#[test]
fn another_wire_type_is_an_error_with_the_path() {
    let inner = delimited(20, &delimited(26, &varint(15, 7)));
    let record = [delimited(20, b""), inner].concat();
    let reason = DocumentErrorReason::WireType { expected: WireType::Length, found: WireType::Varint };
    assert_eq!(failure(&record), ("inners[1].TheChoice.Another.text".to_owned(), reason));
}

#[test]
fn text_that_is_no_utf8_is_an_error_with_the_path() {
    let broken = |path: &str| (path.to_owned(), DocumentErrorReason::NotUtf8);
    assert_eq!(failure(&[delimited(19, b"ok"), delimited(19, b"\xFF")].concat()), broken("texts[1]"));
    assert_eq!(failure(&entry(28, b"\xFF", b"")), broken("by_text[key]"));
    assert_eq!(failure(&entry(28, b"", b"\xFF")), broken("by_text[value]"));
}

#[test]
fn bytes_that_end_early_are_an_error_with_the_path() {
    let whole = delimited(17, &delimited(17, &varint(7, u64::MAX)));
    let cut = delimited(17, &delimited(17, &varint(7, u64::MAX)[..6]));
    assert!(document(&encoder(), &whole).is_ok());
    assert_eq!(failure(&cut), ("inner.inner.an_int64".to_owned(), DocumentErrorReason::Wire(BadWire::Truncated)));
    assert_eq!(failure(&whole[..4]), ("inner".to_owned(), DocumentErrorReason::Wire(BadWire::Truncated)));
    assert_eq!(failure(&[0x38; 1]).1, DocumentErrorReason::Wire(BadWire::Truncated));
}

#[test]
fn varints_tags_and_groups_that_do_not_exist_are_errors() {
    assert_eq!(failure(&[&[0x38][..], &[0xFF; 11]].concat()).1, DocumentErrorReason::Wire(BadWire::BadVarint));
    assert_eq!(failure(&[0x00, 0x00]), ("record".to_owned(), DocumentErrorReason::Wire(BadWire::BadTag)));
    assert_eq!(failure(&[0x07]).1, DocumentErrorReason::Wire(BadWire::BadTag));
    assert_eq!(failure(&[0xFB, 0x3F, 0x08, 0x01]).1, DocumentErrorReason::Wire(BadWire::BadGroup));
    assert_eq!(failure(&[0xFB, 0x3F, 0x0C]).1, DocumentErrorReason::Wire(BadWire::BadGroup));
    assert_eq!(failure(&[0xFC, 0x3F]).1, DocumentErrorReason::Wire(BadWire::BadTag));
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| (1..depth).fold(Vec::new(), |inner, _| delimited(17, &inner));
    assert!(document(&encoder(), &nested(MAX_DEPTH)).is_ok());
    assert_eq!(failure(&nested(MAX_DEPTH + 1)).1, DocumentErrorReason::Wire(BadWire::TooDeep));
    assert_eq!(failure(&nested(20_000)).1, DocumentErrorReason::Wire(BadWire::TooDeep));
    assert_eq!(failure(&[0xFB, 0x3F].repeat(100_000)).1, DocumentErrorReason::Wire(BadWire::TooDeep));
}

#[test]
fn documents_may_have_16_mib_and_not_a_byte_more() {
    let record = |length: usize| delimited(15, &vec![b'x'; length]);
    let mut out = Vec::new();
    let encoder = encoder();
    let mut encode = |record: &[u8]| {
        out.clear();
        encoder.encode(Stream::Stats, record, &DocumentContext::default(), &mut out).map(|()| out.len())
    };
    let overhead = encode(&record(1)).unwrap() - 1;
    assert_eq!(encode(&record(MONGODB_MAX_DOCUMENT - overhead)), Ok(MONGODB_MAX_DOCUMENT));
    let error = encode(&record(MONGODB_MAX_DOCUMENT - overhead + 1)).unwrap_err();
    assert_eq!(error.path(), "record");
    let (bytes, limit) = (MONGODB_MAX_DOCUMENT + 1, MONGODB_MAX_DOCUMENT);
    assert_eq!(*error.reason(), DocumentErrorReason::TooLarge { bytes, limit });
    assert!(error.to_string().contains("16777217 bytes"), "{error}");
}

#[test]
fn a_small_record_cannot_make_a_huge_document() {
    // Two bytes each in the record, more than ten in the document.
    let record = [0xA2, 0x01, 0x00].repeat(8 << 20);
    let error = document(&encoder(), &record).unwrap_err();
    let DocumentErrorReason::TooLarge { bytes, limit } = *error.reason() else { panic!("{error}") };
    assert!(bytes < limit + 100, "stopped at {bytes}");
}

#[test]
fn what_is_added_comes_at_the_end() {
    let encoder = Encoder::new(DocumentOptions::default());
    let labels = Labels::new([("region", "eu"), ("a.b", "")]).unwrap();
    let context = DocumentContext { expire_at: Some(77), labels: &labels };
    // Field 3, a timestamp of 1.9999999 s before the epoch: rounded down.
    let time = [varint(1, (-2_i64) as u64), varint(2, 100)].concat();
    let record = [delimited(14, b"AS_1"), delimited(3, &time)].concat();
    let mut out = Vec::new();
    encoder.encode(Stream::Stats, &record, &context, &mut out).unwrap();
    let document = bson::Document::try_from(bson::RawDocument::from_bytes(&out).unwrap()).unwrap();
    let expected = doc! {
        "_id": "AS_1", "id": "AS_1", "time_stamp": { "seconds": -2_i64, "nanos": 100 }, "kind": "UPSTREAM",
        "time": bson::DateTime::from_millis(-2000), "openvidu_expire_at": bson::DateTime::from_millis(77),
        "labels": { "region": "eu", "a.b": "" },
    };
    assert_eq!(document, expected);
    assert_eq!(document.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
}

#[test]
fn time_is_left_out_where_there_is_none_or_bson_cannot_hold_it() {
    let encoder = Encoder::new(DocumentOptions::default());
    let time = |record: &[u8]| document(&encoder, record).unwrap().get("time").cloned();
    let at = |seconds: i64, nanos: i32| {
        delimited(3, &[varint(1, seconds.cast_unsigned()), varint(2, i64::from(nanos).cast_unsigned())].concat())
    };
    let date = |millis| Some(Bson::DateTime(bson::DateTime::from_millis(millis)));
    assert_eq!(time(b""), None);
    assert_eq!(time(&delimited(3, b"")), date(0));
    assert_eq!(time(&at(i64::MAX, 0)), None);
    assert_eq!(time(&at(i64::MIN, 0)), None);
    assert_eq!(time(&at(i64::MAX / 1000, 0)), date(i64::MAX / 1000 * 1000));
    assert_eq!(time(&at(1, -1)), date(999));
    // In two pieces, which protobuf merges.
    assert_eq!(time(&[delimited(3, &varint(1, 5)), delimited(3, &varint(2, 6_000_000))].concat()), date(5006));
}

#[test]
fn what_is_added_does_not_collide_with_a_field_of_livekits() {
    for stream in Stream::ALL {
        for name in ["_id", "time", "openvidu_expire_at", "labels"] {
            assert!(crate::record::schema::record(stream).get_field_by_name(name).is_none(), "{stream} has {name}");
        }
    }
}

#[test]
fn records_expire_from_the_later_of_now_and_the_time_received() {
    assert_eq!(expire_at(1_000, 2_000, 10), 2_010);
    assert_eq!(expire_at(3_000, 2_000, 10), 3_010);
    assert_eq!(expire_at(0, 0, u64::MAX), i64::MAX);
}

#[test]
fn labels_need_a_name() {
    assert!(Labels::new([("", "x")]).is_err());
    assert!(Labels::new([("a\0b", "x")]).is_err());
}
