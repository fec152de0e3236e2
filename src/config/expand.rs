//! Expands `${VAR}` and `${VAR:-default}` inside scalars, after the YAML is parsed: the value of a variable cannot change
//! the structure of the document. `$$` is a dollar sign; a single `$` is kept. Line ends at the end of a variable's value
//! are removed, as a shell's `$(…)` and our reader of secret files do: `export TOKEN=$(…; echo)` and `printf '%s
//! '` must mean the same.

use std::cell::RefCell;

/// Where variables come from: the environment of the process, or a test.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces the variables in a scalar's text.
///
/// # Errors
/// Names the variable that is not set, or the form that is not valid.
pub(super) fn expand(text: &str, environment: Environment<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix('{') {
            let (inner, behind) = tail.split_once('}').ok_or("has ${ without }; write $$ for a dollar sign")?;
            out.push_str(&variable(inner, environment)?);
            rest = behind;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The variables of a text that was expanded, as `${VAR}`: those that [`expand`] asks for.
pub(super) fn variables(text: &str) -> Vec<String> {
    let names = RefCell::new(Vec::new());
    let asked = |name: &str| {
        names.borrow_mut().push(format!("${{{name}}}"));
        Some(String::new())
    };
    // An error would have been reported when it was expanded.
    let _ = expand(text, &asked);
    names.into_inner()
}

fn variable(inner: &str, environment: Environment<'_>) -> Result<String, String> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let is_name = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        return Err(format!("has ${{{inner}}}, which names no variable: write ${{VAR}} or ${{VAR:-default}}"));
    }
    let value = environment(name).map(|value| value.trim_end_matches(['\n', '\r']).to_owned());
    // As in a shell: with `:-` an empty variable counts as unset.
    match (value, default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!(
            "needs the environment variable {name}, which is not set: set it, or write ${{{name}:-default}}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        expand(text, &|name| match name {
            "HOST" => Some("db.example".to_owned()),
            "EMPTY" => Some(String::new()),
            "LINE" => Some("a secret\r\n\n".to_owned()),
            "LINES" => Some("a: b\nc: d\n".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn only_what_is_replaced_is_named_as_a_variable() {
        for (text, names) in [
            ("a${B}c${D:-e}", &["${B}", "${D}"][..]),
            ("$${A}", &[]),
            ("$$${A}$$${B}", &["${A}", "${B}"]),
            ("$$$${A}$5$", &[]),
        ] {
            assert_eq!(variables(text), names, "{text}");
        }
    }

    #[test]
    fn variables_defaults_and_dollars_are_expanded() {
        for (text, expected) in [
            ("plain", "plain"),
            ("mongodb://${HOST}:1/", "mongodb://db.example:1/"),
            ("${NONE:-fallback}", "fallback"),
            ("${NONE:-}", ""),
            ("${EMPTY:-fallback}", "fallback"),
            ("${EMPTY}", ""),
            ("$$HOST $${HOST} pa$word $", "$HOST ${HOST} pa$word $"),
            ("${NONE:-a:-b}", "a:-b"),
            ("${LINE}", "a secret"),
            ("u:${LINE}@h", "u:a secret@h"),
            ("${LINES}", "a: b\nc: d"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_unset_variable_and_a_bad_form_are_named() {
        assert!(expanded("${NONE}").unwrap_err().contains("environment variable NONE, which is not set"));
        assert!(expanded("${HOST").unwrap_err().contains("without }"));
        assert!(expanded("${}").unwrap_err().contains("names no variable"));
        assert!(expanded("${1A}").unwrap_err().contains("names no variable"));
    }
}
