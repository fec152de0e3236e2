//! The structure of the code, read from the code: which file uses which. No two files use each other, directly or through
//! others, and neither do two modules.
//!
//! A module is what is directly in `src/`: a directory, or a file. A file uses another one if it names something that is defined
//! there, however the name got there: a path (`crate::…`, `super::…`), an import, a re-export. Tests do not count, and neither do
//! re-exports (`pub use`).
//!
//! `UPDATE_ARCHITECTURE=1 cargo test --test architecture` draws the picture in CONTRIBUTING.md.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

const DIAGRAM: (&str, &str) = ("<!-- architecture: begin -->\n", "<!-- architecture: end -->\n");

#[test]
fn no_two_files_use_each_other() {
    let code = Code::read();
    let told: Vec<String> = circles(&code.uses).iter().map(|circle| code.told(circle, str::to_owned)).collect();
    assert!(told.is_empty(), "{} circles of files:\n{}", told.len(), told.join("\n"));
}

#[test]
fn no_two_modules_use_each_other() {
    let code = Code::read();
    let told: Vec<String> = circles(&code.modules_uses()).iter().map(|circle| code.told(circle, module_of)).collect();
    assert!(told.is_empty(), "{} circles of modules:\n{}", told.len(), told.join("\n"));
}

#[test]
fn each_directory_says_what_it_uses() {
    let code = Code::read();
    let mut wrong = Vec::new();
    for (module, uses) in code.modules_uses() {
        let header = code.root.join("src").join(&module).join("mod.rs");
        let Ok(text) = fs::read_to_string(&header) else { continue };
        let line = if uses.is_empty() {
            "//! Uses no other module.".to_owned()
        } else {
            let names: Vec<String> = uses.keys().map(|name| format!("`{name}`")).collect();
            format!("//! Uses {}.", names.join(", "))
        };
        let paragraph =
            text.lines().skip_while(|line| !line.starts_with("//! Uses ")).take_while(|line| *line != "//!");
        let told: Vec<&str> = paragraph.take_while(|line| line.starts_with("//!")).collect();
        if told.join(" ").replace(" //! ", " ") != line {
            wrong.push(format!("src/{module}/mod.rs: {line}"));
        }
    }
    assert!(wrong.is_empty(), "these headers need the following line:\n{}", wrong.join("\n"));
}

#[test]
fn the_picture_in_contributing_is_the_code() {
    let code = Code::read();
    let path = code.root.join("CONTRIBUTING.md");
    let text = fs::read_to_string(&path).expect("CONTRIBUTING.md");
    let (before, rest) = text.split_once(DIAGRAM.0).expect("CONTRIBUTING.md has the marker before the picture");
    let (found, after) = rest.split_once(DIAGRAM.1).expect("CONTRIBUTING.md has the marker after the picture");
    let drawn = mermaid(&code.modules_uses());
    if std::env::var_os("UPDATE_ARCHITECTURE").is_some() {
        fs::write(&path, format!("{before}{}{drawn}{}{after}", DIAGRAM.0, DIAGRAM.1)).expect("write CONTRIBUTING.md");
    } else {
        assert_eq!(
            found, drawn,
            "the picture is out of date: run UPDATE_ARCHITECTURE=1 cargo test --test architecture"
        );
    }
}

/// A module's path below the crate: `["spool", "journal"]`.
type ModulePath = Vec<String>;

#[derive(Debug, Default)]
struct Module {
    /// Below `src/`; an inline module has its parent's.
    file: String,
    defines: HashSet<String>,
    /// Name here → the path it was imported by.
    imports: HashMap<String, Vec<String>>,
    /// Imported, and not only handed on.
    own_imports: Vec<Vec<String>>,
    /// Paths of two or more segments in the code.
    paths: Vec<Vec<String>>,
}

/// File or module → what it uses → the names that it uses there.
type Uses = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

struct Code {
    root: PathBuf,
    modules: BTreeMap<ModulePath, Module>,
    uses: Uses,
}

/// What is directly in `src/` and holds this file.
fn module_of(file: &str) -> String {
    file.split('/').next().expect("a path").trim_end_matches(".rs").to_owned()
}

impl Code {
    fn read() -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut code = Self { root, modules: BTreeMap::new(), uses: BTreeMap::new() };
        code.read_file("lib.rs", Vec::new());
        code.find_uses();
        code
    }

    fn read_file(&mut self, file: &str, path: ModulePath) {
        let text = fs::read_to_string(self.root.join("src").join(file)).expect(file);
        let tokens = text.parse::<TokenStream>().expect(file);
        self.read_module(file, path, tokens);
    }

    fn read_module(&mut self, file: &str, path: ModulePath, tokens: TokenStream) {
        let tokens = without_tests(tokens);
        let mut module = Module { file: file.to_owned(), ..Module::default() };
        let mut children = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            match (&tokens[at], tokens.get(at + 1)) {
                (TokenTree::Ident(word), _) if word == "use" => {
                    let public = at > 0 && is_visibility(&tokens[at - 1]);
                    let end = (at..tokens.len()).find(|&end| is_punct(&tokens[end], ';')).expect("use ends");
                    for (name, target) in imported(&tokens[at + 1..end]) {
                        if !public {
                            module.own_imports.push(target.clone());
                        }
                        module.imports.insert(name, target);
                    }
                    at = end;
                }
                (TokenTree::Ident(word), Some(TokenTree::Ident(name))) if word == "mod" => {
                    let inline = match &tokens[at + 2] {
                        TokenTree::Group(body) => Some(body.stream()),
                        _ => None,
                    };
                    children.push((name.to_string(), inline));
                    at += 2;
                }
                (TokenTree::Ident(word), Some(TokenTree::Ident(name)))
                    if ["fn", "struct", "enum", "trait", "type", "const", "static"]
                        .contains(&word.to_string().as_str()) =>
                {
                    module.defines.insert(name.to_string());
                    at += 1;
                }
                (TokenTree::Ident(word), Some(_)) if word == "macro_rules" => {
                    module.defines.insert(tokens[at + 2].to_string());
                    at += 2;
                }
                (TokenTree::Group(group), _) => paths_in(group.stream(), &mut module.paths),
                _ => {}
            }
            at += 1;
        }
        let flat: Vec<TokenTree> = tokens.into_iter().filter(|token| !matches!(token, TokenTree::Group(_))).collect();
        paths_of(&flat, &mut module.paths);
        self.modules.insert(path.clone(), module);
        for (name, inline) in children {
            let child: ModulePath = path.iter().cloned().chain([name.clone()]).collect();
            match inline {
                Some(body) => self.read_module(file, child, body),
                None => {
                    let directory = child.join("/");
                    let candidates = [format!("{directory}.rs"), format!("{directory}/mod.rs")];
                    let found = candidates.iter().find(|file| self.root.join("src").join(file).is_file());
                    self.read_file(&found.expect("a module's file").clone(), child);
                }
            }
        }
    }

    fn find_uses(&mut self) {
        for (path, module) in &self.modules {
            for named in module.own_imports.iter().chain(&module.paths) {
                let Some(definition) = self.resolve(path, named, 0) else { continue };
                let target = &self.modules[&definition].file;
                if *target != module.file {
                    let names = self.uses.entry(module.file.clone()).or_default().entry(target.clone()).or_default();
                    names.insert(named.last().expect("a name").clone());
                }
            }
        }
    }

    /// The module that defines what `named` names in `module`; `None` where it is another crate's, or a module.
    fn resolve(&self, module: &ModulePath, named: &[String], depth: usize) -> Option<ModulePath> {
        assert!(depth < 30, "{named:?} in {module:?} is imported in a circle");
        let mut at = module.clone();
        let mut rest = named;
        while let Some((first, after)) = rest.split_first() {
            let child: ModulePath = at.iter().cloned().chain([first.clone()]).collect();
            match first.as_str() {
                "crate" => at.clear(),
                "self" => {}
                "super" => _ = at.pop(),
                _ if self.modules.contains_key(&child) => at = child,
                _ => {
                    let here = &self.modules[&at];
                    if here.defines.contains(first) {
                        return Some(at);
                    }
                    let target = here.imports.get(first)?;
                    // A crate that has the name of what is imported from it.
                    if target.first() == Some(first) {
                        return None;
                    }
                    let whole: Vec<String> = target.iter().chain(after).cloned().collect();
                    return self.resolve(&at, &whole, depth + 1);
                }
            }
            rest = after;
        }
        None
    }

    /// Which module uses which; `lib.rs`, which lists them, is none.
    fn modules_uses(&self) -> Uses {
        let mut modules = Uses::new();
        for module in self.modules.values().filter(|module| module.file != "lib.rs") {
            modules.entry(module_of(&module.file)).or_default();
        }
        for (file, targets) in &self.uses {
            for (target, names) in targets.iter().filter(|(target, _)| module_of(target) != module_of(file)) {
                let uses = modules.entry(module_of(file)).or_default();
                uses.entry(module_of(target)).or_default().extend(names.iter().cloned());
            }
        }
        modules
    }

    /// The uses that make a circle, one line for each pair of files. `part` answers which member of the circle holds a file.
    fn told(&self, circle: &BTreeSet<String>, part: fn(&str) -> String) -> String {
        let mut told = String::new();
        for (file, targets) in self.uses.iter().filter(|(file, _)| circle.contains(&part(file))) {
            for (target, names) in targets {
                if circle.contains(&part(target)) && part(target) != part(file) {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    writeln!(told, "  {file} uses {target}: {}", names.join(", ")).expect("write to a string");
                }
            }
        }
        told
    }
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

fn is_visibility(token: &TokenTree) -> bool {
    match token {
        TokenTree::Ident(word) => word == "pub",
        TokenTree::Group(group) => group.delimiter() == Delimiter::Parenthesis,
        _ => false,
    }
}

/// The tokens without what `#[cfg(test)]` and `#[test]` mark, at every depth.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        if is_punct(&token, '#')
            && let Some(TokenTree::Group(attribute)) = tokens.peek()
            && ["cfg (test)", "cfg(test)", "test"].contains(&attribute.stream().to_string().as_str())
        {
            // The item ends with its body or with a semicolon.
            for token in tokens.by_ref() {
                let body = matches!(&token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
                if body || is_punct(&token, ';') {
                    break;
                }
            }
        } else {
            kept.push(token);
        }
    }
    kept
}

/// What a `use` imports: name → path.
fn imported(tokens: &[TokenTree]) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for branch in tokens.split(|token| is_punct(token, ',')) {
        let mut path = Vec::new();
        let mut name = None;
        let mut branches = Vec::new();
        let mut words = branch.iter();
        while let Some(token) = words.next() {
            match token {
                TokenTree::Ident(word) if word == "as" => name = words.next().map(ToString::to_string),
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Group(group) => branches = imported(&group.stream().into_iter().collect::<Vec<_>>()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
        let grouped = branch.iter().any(|token| matches!(token, TokenTree::Group(_)));
        let glob = branch.last().is_some_and(|token| is_punct(token, '*'));
        if grouped {
            for (below, rest) in branches {
                let whole: Vec<String> = path.iter().cloned().chain(rest).collect();
                let name = if below == "self" { path.last().expect("a path before {self}").clone() } else { below };
                let whole = if whole.last().is_some_and(|last| last == "self") { path.clone() } else { whole };
                found.push((name, whole));
            }
        } else if !glob && let Some(last) = path.last() {
            found.push((name.unwrap_or_else(|| last.clone()), path));
        }
    }
    found
}

/// Collects paths of two or more segments, at every depth.
fn paths_in(tokens: TokenStream, found: &mut Vec<Vec<String>>) {
    let tokens = without_tests(tokens);
    for token in &tokens {
        if let TokenTree::Group(group) = token {
            paths_in(group.stream(), found);
        }
    }
    paths_of(&tokens, found);
}

fn paths_of(tokens: &[TokenTree], found: &mut Vec<Vec<String>>) {
    let mut path: Vec<String> = Vec::new();
    let mut colons = 0;
    for token in tokens {
        match token {
            TokenTree::Ident(word) => {
                if colons != 2 {
                    found.extend((path.len() > 1).then(|| path.clone()));
                    path.clear();
                }
                path.push(word.to_string());
                colons = 0;
            }
            token if is_punct(token, ':') => colons += 1,
            _ => {
                found.extend((path.len() > 1).then(|| path.clone()));
                path.clear();
                colons = 0;
            }
        }
    }
    found.extend((path.len() > 1).then_some(path));
}

/// Sets of files or modules, each of which uses each other one of its set, directly or through others.
fn circles(uses: &Uses) -> Vec<BTreeSet<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> = uses.keys().map(|file| (file, reached(file, uses))).collect();
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for (file, reached) in &reach {
        if reached.contains(*file) && !found.iter().any(|circle| circle.contains(*file)) {
            let same = reached.iter().filter(|other| reach.get(**other).is_some_and(|back| back.contains(*file)));
            found.push(same.map(|other| (*other).clone()).collect());
        }
    }
    found
}

/// What a file or module uses, directly or through others.
fn reached<'a>(file: &String, uses: &'a Uses) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&String> = uses.get(file).into_iter().flat_map(BTreeMap::keys).collect();
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(uses.get(next).into_iter().flat_map(BTreeMap::keys));
        }
    }
    reached
}

/// The modules as a Mermaid graph. An arrow is left out where others lead the same way: A → C next to A → B → C.
fn mermaid(modules: &Uses) -> String {
    let mut drawn = "```mermaid\ngraph TD\n".to_owned();
    for (module, uses) in modules {
        for target in uses.keys() {
            let mut others = uses.keys().filter(|other| *other != target);
            if !others.any(|other| reached(other, modules).contains(target)) {
                writeln!(drawn, "    {module} --> {target}").expect("write to a string");
            }
        }
    }
    drawn + "```\n"
}

#[test]
fn what_is_drawn_is_found_by_hand() {
    let code = Code::read();
    let uses = |file: &str, target: &str| code.uses.get(file).is_some_and(|uses| uses.contains_key(target));
    assert!(uses("ingest/wire.rs", "record/wire.rs"));
    assert!(!uses("record/wire.rs", "ingest/wire.rs"));
    assert!(Path::new(&code.root).join("src/record/wire.rs").exists());
}
