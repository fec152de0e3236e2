//! The text of a document in the form that libyaml and serde_yaml accept, where they are stricter than YAML or a
//! configuration needs.

use std::borrow::Cow;

/// Characters at which libyaml ends a line, and YAML 1.2 and editors do not: to them a key behind one may be a comment.
pub(super) const BREAKS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

/// The text with spaces for the tabs at the beginning of the line with this number and the lines after it, as long as they
/// have nothing but a comment. libyaml refuses some such tabs, which YAML allows. Only a line that it has refused is
/// changed: such a line in a quoted text or a block is a part of it, and no error. `None` if there is no tab.
pub(super) fn without_tabs(text: &str, line: usize) -> Option<String> {
    let start = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let (before, after) = text.split_at(start);
    let mut accepted = before.to_owned();
    let mut lines = after.split_inclusive('\n');
    for line in lines.by_ref() {
        let content = line.trim_start_matches([' ', '\t', '\r', '\n']);
        if !content.is_empty() && !content.starts_with('#') {
            accepted.push_str(line);
            break;
        }
        accepted.push_str(&line[..line.len() - content.len()].replace('\t', " "));
        accepted.push_str(content);
    }
    accepted.extend(lines);
    (accepted != text).then_some(accepted)
}

/// The prefix that `!!` stands for.
const CORE_TAGS: &str = "tag:yaml.org,2002:";

/// The text for the first pass, with tags of types (`!!int`) as custom tags of the same length. serde_yaml refuses a
/// scalar that does not fit its type, and only the kind of each value is taken from this pass: texts may change.
pub(super) fn without_types(text: &str) -> Cow<'_, str> {
    if !text.contains("!!") && !text.contains(CORE_TAGS) {
        return Cow::Borrowed(text);
    }
    let custom = CORE_TAGS.replacen('t', "!", 1);
    let line = |line: &str| {
        if line.starts_with("%TAG") {
            line.replace(CORE_TAGS, &custom)
        } else {
            line.replace("!!", "!_").replace(&format!("!<{CORE_TAGS}"), &format!("!<{custom}"))
        }
    };
    text.split_inclusive('\n').map(line).collect::<String>().into()
}
