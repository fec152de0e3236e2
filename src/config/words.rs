//! Messages for words that are not known, with the nearest known one.

/// Reports an unknown word, with the nearest known one.
pub(super) fn unknown_word(word: &str, known: &[&str]) -> String {
    let meant = nearest(word, known).map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
    format!("is not known{meant}")
}

/// Reports an unknown key, with the nearest known one and what is allowed in its place.
pub(super) fn unknown_key(key: &str, known: &[&str]) -> String {
    let mut allowed = known.to_vec();
    allowed.sort_unstable();
    let meant = nearest(key, &allowed).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    format!("unknown key{meant} (allowed here: {})", allowed.join(", "))
}

/// The name that was probably meant, if one is close enough.
pub(super) fn nearest<'n>(name: &str, candidates: &[&'n str]) -> Option<&'n str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    let distance = |candidate: &&'n str| {
        let distance = strsim::damerau_levenshtein(&plain(name), &plain(candidate));
        (distance, strsim::damerau_levenshtein(name, candidate), *candidate)
    };
    let (distance, _, candidate) = candidates.iter().map(distance).min()?;
    (distance <= 1 + candidate.len() / 5).then_some(candidate)
}
