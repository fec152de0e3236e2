//! What the tree keeps of a document: places, quotes, digits, merges and aliases.

use super::*;

fn parsed(text: &str) -> Node {
    parse("c.yaml", text).unwrap_or_else(|error| panic!("{}: {}\n{text}", error.place, error.message))
}

fn refused(text: &str) -> String {
    let error = parse("c.yaml", text).expect_err(text);
    format!("{}: {}", error.place, error.message)
}

fn scalar_at(root: &Node, path: &str) -> (String, bool, String) {
    let node = root.find(path).unwrap_or_else(|| panic!("no {path}"));
    let Value::Scalar(scalar) = &node.value else { panic!("{path} is {}", node.kind()) };
    (scalar.text.clone(), scalar.quoted, node.place.to_string())
}

#[test]
fn a_value_keeps_its_place_its_quotes_and_its_digits() {
    let text = "a: 007\nb:\n  - 0x10\n  - y: \"2\"\nc: &n 1_000\nd: *n\ne: &q '5'\nf: *q\ng: !!int 5\nh: !own 'x'\ni: ä\nj: {k: ~, 'l' : ''}\n";
    for text in [text.to_owned(), text.replace('\n', "\r\n"), format!("\u{feff}{text}")] {
        let root = parsed(&text);
        for (path, value, quoted, place) in [
            ("a", "007", false, "c.yaml:1:4"),
            ("b[0]", "0x10", false, "c.yaml:3:5"),
            ("b[1].y", "2", true, "c.yaml:4:8"),
            ("c", "1_000", false, "c.yaml:5:7"),
            ("d", "1_000", false, "c.yaml:5:7"),
            ("e", "5", true, "c.yaml:7:7"),
            ("f", "5", true, "c.yaml:7:7"),
            ("g", "5", false, "c.yaml:9:10"),
            ("h", "x", true, "c.yaml:10:9"),
            ("i", "ä", false, "c.yaml:11:4"),
            ("j.k", "~", false, "c.yaml:12:8"),
            ("j.l", "", true, "c.yaml:12:17"),
        ] {
            assert_eq!(scalar_at(&root, path), (value.to_owned(), quoted, place.to_owned()), "{path} in {text:?}");
        }
    }
}

#[test]
fn a_value_is_read_as_its_text_whatever_type_its_tag_says() {
    for tag in
        ["!!int", "!!bool", "!!float", "!!null", "!!str", "!!binary", "!!own", "!<tag:yaml.org,2002:int>", "!own"]
    {
        for value in ["SEKRIT", "\"SEKRIT\"", "'SEKRIT'", "\"SEK\\x52IT\"", "|-\n SEKRIT", ">-\n SEKRIT"] {
            let root = parsed(&format!("a: {tag} {value}\nb: 1\n"));
            assert_eq!(scalar_at(&root, "a").0, "SEKRIT", "{tag} {value}");
        }
        let root = parsed(&format!("{tag} a: {{b: [{tag} SEKRIT, {tag} [x!!y], {tag} {{c: d}}]}}\ne: {tag}\n"));
        for (path, value) in [("a.b[0]", "SEKRIT"), ("a.b[1][0]", "x!!y"), ("a.b[2].c", "d"), ("e", "")] {
            assert_eq!(scalar_at(&root, path).0, value, "{tag} {path}");
        }
    }
    let text = "%TAG ! tag:yaml.org,2002:\n%TAG !! tag:yaml.org,2002:\n---\na: !int SEKRIT\nb: !!int SEKRIT\n";
    assert_eq!(scalar_at(&parsed(text), "a").0, "SEKRIT");
}

#[test]
fn no_error_repeats_a_value() {
    // The tag is written so that the first pass does not see that it is a type's.
    for handle in ["!<tag:yaml.org%2C2002:", "!<%74ag:yaml.org,2002:"] {
        for kind in ["int", "bool", "float", "null"] {
            let message = refused(&format!("a: {{b: {handle}{kind}> SEKRIT}}\n"));
            assert!(!message.contains("SEKRIT"), "{message}");
            assert!(message.starts_with("c.yaml:1:"), "{message}");
        }
    }
}

#[test]
fn a_character_that_only_some_programs_treat_as_a_line_end_is_refused() {
    for (text, place) in [
        ("a: 1\n    #\u{2028}b: 2\n", "c.yaml:2:6: not valid YAML: the character U+2028"),
        ("a: \u{85}1\n", "c.yaml:1:4: not valid YAML: the character U+0085"),
        ("a: 'x\u{2029}y'\n", "c.yaml:1:6: not valid YAML: the character U+2029"),
    ] {
        assert!(refused(text).starts_with(place), "{}", refused(text));
    }
    assert_eq!(scalar_at(&parsed("a: \"x\\u2028y\\N\"\n"), "a").0, "x\u{2028}y\u{85}");
}

#[test]
fn a_tab_in_a_line_without_content_is_accepted_and_one_in_a_text_is_kept() {
    for text in [
        "a: ./d\n\t\nb: 1\n",
        "\t# c\na: ./d\n \t \r\n\t\n\t#d\te\nb: 1\n\t",
        "\t\n---\na: ./d\n\t# c\n\n\t# d\nb: 1\n",
        "a:\n\t# c\n  ./d\n\t\nb: 1\n\t# c",
    ] {
        let root = parsed(text);
        assert_eq!((scalar_at(&root, "a").0.as_str(), scalar_at(&root, "b").0.as_str()), ("./d", "1"), "{text:?}");
    }
    let root = parsed("\t\na: |\n  x\n  \t\n  \t# y\nb: \"x\n\t# y\"\n\t# c\nc: {\n\t# d\n  d: 1}\n");
    for (path, value) in [("a", "x\n\t\n\t# y\n"), ("b", "x # y"), ("c.d", "1")] {
        assert_eq!(scalar_at(&root, path).0, value, "{path}");
    }
    assert_eq!(scalar_at(&root, "c.d").2, "c.yaml:11:6");
    for wrong in ["a:\n\tb: 1\n", "\ta: 1\n", "a: 1\n\t\n\tb: 2\n"] {
        assert!(parse("c.yaml", wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_block_and_a_text_with_escapes_are_texts_at_the_place_of_their_key() {
    let root = parsed("a: |\n  5\nb: \"\\x35\"\nc: 'it''s'\nd: \"\\\"\"\n");
    assert_eq!(scalar_at(&root, "a"), ("5\n".to_owned(), true, "c.yaml:1:1".to_owned()));
    for (path, value) in [("b", "5"), ("c", "it's"), ("d", "\"")] {
        let (text, quoted, _) = scalar_at(&root, path);
        assert_eq!((text.as_str(), quoted), (value, true), "{path}");
    }
}

#[test]
fn a_key_without_a_value_is_null_also_where_its_name_is_quoted() {
    let root = parsed("{'a', \"b\": , c: '', d}");
    for (key, null) in [("a", true), ("b", true), ("c", false), ("d", true)] {
        assert_eq!(root.get(key).unwrap().is_null(), null, "{key}");
    }
}

#[test]
fn an_empty_document_is_null_and_broken_yaml_names_its_place() {
    assert!(parsed("# only a comment\n").is_null());
    assert!(parsed("").is_null());
    assert!(refused("a: 1\nb: [1, 2\nc: 3\n").starts_with("c.yaml:3:2: not valid YAML: "));
    assert!(refused("\ta: 1").starts_with("c.yaml:1:1: not valid YAML: "));
}

#[test]
fn a_key_that_is_written_twice_and_a_second_document_are_refused() {
    assert_eq!(refused("a: 1\nb: 2\na: 3\n"), "c.yaml:3:1: duplicate key \"a\", first on line 1");
    assert_eq!(refused("a: 1\nb: {c: 2,\n  'c': 3}\n"), "c.yaml:3:3: duplicate key \"c\", first on line 2");
    assert!(refused("a: 1\n---\nb: 2\n").contains("second document"));
    assert_eq!(refused("{a:SEKRIT: {? [a] : b}}"), "c.yaml:1:12: not valid YAML: a key must be a plain text");
    assert_eq!(refused("{a:SEKRIT, a:SEKRIT}"), "c.yaml:1:12: duplicate key \"a\", first on line 1");
}

#[test]
fn a_merge_adds_the_keys_that_the_mapping_lacks() {
    let value = |text: &str, path: &str| scalar_at(&parsed(text), path).0;
    for own_first in ["{k: 3, <<: *x}", "{<<: *x, k: 3}"] {
        let one = format!("a: &x {{k: 1, l: 2}}\nb: {own_first}\n");
        assert_eq!((value(&one, "b.k"), value(&one, "b.l")), ("3".to_owned(), "2".to_owned()));
        assert!(parsed(&one).get("b").unwrap().get("<<").is_none());
    }
    let list = "a: &x {k: 1}\nc: &y {k: 2, m: 4}\nb: {<<: [*x, *y]}\n";
    assert_eq!((value(list, "b.k"), value(list, "b.m")), ("1".to_owned(), "4".to_owned()));
    assert_eq!(value("b: {'<<': x}\n", "b.<<"), "x", "in quotes it is a key as any other");
    for wrong in ["b: {<<: 1}", "a: &x [1]\nb: {<<: *x}"] {
        assert!(refused(wrong).contains("<< needs keys"), "{wrong}");
    }
}

#[test]
fn aliases_are_followed_and_what_would_take_too_much_is_refused() {
    assert_eq!(scalar_at(&parsed("a: &x {k: 1}\nb: *x\n"), "b.k").2, "c.yaml:1:11");
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..9 {
        let previous = format!("*a{}", i - 1);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![previous; 10].join(", ")));
    }
    let message = refused(&bomb);
    assert!(message.contains("too many values") || message.contains("repetition limit"), "{message}");
    assert!(refused(&"[".repeat(100_000)).contains("nested too deeply"));
    assert!(refused(&format!("{}x{}", "[".repeat(200), "]".repeat(200))).contains("recursion limit"));
}

#[test]
fn a_scalar_is_written_so_that_it_reads_back_as_the_same_text() {
    for text in
        ["a", "true", "5", "0x10", "", " a ", "a: b", "a #b", "[a]", "a, b", "${X}", "'", "a\nb", "***", "~", "-", "ä"]
    {
        let written = scalar(text);
        for (document, path) in [(format!("a: {written}"), "a"), (format!("a: [{written}]"), "a[0]")] {
            let (read, quoted, _) = scalar_at(&parsed(&document), path);
            assert_eq!(read, text, "{document}");
            assert!(quoted || !matches!(text, "true" | "5" | "0x10" | "~" | ""), "{document}");
        }
    }
}
