//! The properties of a document that come from OpenVidu's LiveKit fork: it uses Go's `encoding/json` over the generated Go
//! structs, then replaces some enums by their names. Dashboards rely on them.

/// The places where the fork writes an enum's name, even at zero. `*` stands for each egress request that is encoded.
/// All other enums are numbers and absent at zero, even the same field of the same message elsewhere
/// (`participant.state`, not `publisher.state`).
const NAMED_ENUMS: [&str; 16] = [
    "type",
    "kind",
    "participant.state",
    "client_info.sdk",
    "track.source",
    "ingress.state.status",
    "egress.status",
    "egress.Request.*.Options.Preset",
    "egress.Request.*.Options.Advanced.audio_codec",
    "egress.Request.*.Options.Advanced.video_codec",
    "egress.Request.*.file_outputs.file_type",
    "egress.Request.*.stream_outputs.protocol",
    "egress.Request.*.segment_outputs.protocol",
    "egress.Request.*.segment_outputs.filename_suffix",
    "egress.Request.*.image_outputs.filename_suffix",
    "egress.Request.*.image_outputs.image_codec",
];

/// The rest of a document path below some message; see [`NamedEnums::below`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct NamedEnums(Vec<&'static str>);

impl NamedEnums {
    /// The paths of a whole record.
    pub(super) fn of_record() -> Self {
        Self(NAMED_ENUMS.to_vec())
    }

    /// The paths that continue below `segments` (a field; for a oneof's member, the oneof and the member), without them.
    pub(super) fn below(&self, segments: &[&str]) -> Self {
        Self(self.0.iter().filter_map(|path| strip(path, segments)).filter(|rest| !rest.is_empty()).collect())
    }

    /// True if the enum field at `segments` is one that the fork names.
    pub(super) fn contains(&self, segments: &[&str]) -> bool {
        self.0.iter().any(|path| strip(path, segments) == Some(""))
    }
}

fn strip<'a>(mut path: &'a str, segments: &[&str]) -> Option<&'a str> {
    for segment in segments {
        let (head, rest) = path.split_once('.').unwrap_or((path, ""));
        let encoded_request =
            head == "*" && matches!(*segment, "RoomComposite" | "Web" | "Participant" | "TrackComposite");
        if head != *segment && !encoded_request {
            return None;
        }
        path = rest;
    }
    Some(path)
}

/// A protobuf name as protoc-gen-go writes it: oneofs and their members have no JSON name of their own in Go.
pub(super) fn go_name(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut go = String::with_capacity(name.len());
    let mut start_of_word = true;
    for (i, c) in name.char_indices() {
        let before_lower = bytes.get(i + 1).is_some_and(u8::is_ascii_lowercase);
        match c {
            '_' if i == 0 => go.push('X'),
            '_' if before_lower => {}
            _ if start_of_word => go.push(c.to_ascii_uppercase()),
            _ => go.push(c),
        }
        start_of_word = c == '_' || c.is_ascii_digit();
    }
    go
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_as_go_spells_them() {
        for (name, go) in [
            ("request", "Request"),
            ("room_composite", "RoomComposite"),
            ("s3", "S3"),
            ("aliOSS", "AliOSS"),
            ("h264_main", "H264Main"),
            ("a_1", "A_1"),
            ("_hidden", "XHidden"),
        ] {
            assert_eq!(go_name(name), go);
        }
    }

    #[test]
    fn an_enum_is_named_at_its_own_path_only() {
        let record = NamedEnums::of_record();
        assert!(record.contains(&["type"]));
        assert!(record.below(&["participant"]).contains(&["state"]));
        assert!(!record.below(&["publisher"]).contains(&["state"]));
        let request = |name| record.below(&["egress"]).below(&["Request", name]);
        assert!(request("Web").contains(&["Options", "Preset"]));
        assert!(request("Web").below(&["image_outputs"]).contains(&["image_codec"]));
        assert!(!request("Replay").contains(&["Options", "Preset"]));
    }
}
