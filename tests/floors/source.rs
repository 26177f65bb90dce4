//! The files of `src`, as tokens.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Source {
    /// Relative to `src`.
    pub(crate) path: PathBuf,
    /// Where the file's items live, from the root of the crate: `["key", "query"]`; empty for lib.rs.
    pub(crate) module: Vec<String>,
    pub(crate) tokens: Vec<Token>,
    /// The modules declared here for tests alone, in files of their own.
    test_modules: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Token {
    /// A word, `::`, one other character, or `""` for any literal in quotes.
    pub(crate) text: String,
    pub(crate) line: usize,
}

impl Token {
    pub(crate) fn is(&self, text: &str) -> bool {
        self.text == text
    }

    pub(crate) fn is_word(&self) -> bool {
        self.text.starts_with(is_word_char)
    }
}

impl Source {
    pub(crate) fn parse(path: impl Into<PathBuf>, text: &str) -> Self {
        let path = path.into();
        let (tokens, test_modules) = without_tests(&tokens(text));
        Self {
            module: module_of(&path),
            path,
            tokens,
            test_modules,
        }
    }

    /// The module at the root of the crate that the file belongs to.
    pub(crate) fn floor(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }
}

/// Every file under `src` but those compiled for tests alone.
pub(crate) fn read_all(src: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder).expect("src can be listed") {
            let path = item.expect("src can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file is text");
                let path = path.strip_prefix(src).expect("it was found there");
                sources.push(Source::parse(path, &text));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    let for_tests: Vec<Vec<String>> = sources
        .iter()
        .flat_map(|source| {
            let child =
                |name: &String| [source.module.as_slice(), std::slice::from_ref(name)].concat();
            source.test_modules.iter().map(child)
        })
        .collect();
    sources.retain(|source| {
        !for_tests
            .iter()
            .any(|module| source.module.starts_with(module))
    });
    sources
}

fn module_of(path: &Path) -> Vec<String> {
    let mut module: Vec<String> = path
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if module == ["lib"] || module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

/// The index of what closes the bracket at `open`.
pub(crate) fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("line {}: nothing closes this", tokens[open].line);
}

/// The tokens without the items under `#[cfg(test)]`, and the modules among those that are files of their own.
fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let (mut kept, mut test_modules) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let is =
            |offset: usize, text: &str| tokens.get(at + offset).is_some_and(|token| token.is(text));
        let whole_file = is(0, "#") && is(1, "!");
        let bracket = at + if whole_file { 2 } else { 1 };
        if is(0, "#") && tokens.get(bracket).is_some_and(|token| token.is("[")) {
            let close = closing(tokens, bracket);
            if is_for_tests(&tokens[bracket + 1..close]) {
                if whole_file {
                    return (Vec::new(), Vec::new());
                }
                let end = item_end(tokens, close + 1);
                if let [.., keyword, name, semicolon] = &tokens[close + 1..end]
                    && keyword.is("mod")
                    && semicolon.is(";")
                {
                    test_modules.push(name.text.clone());
                }
                at = end;
                continue;
            }
        }
        kept.push(tokens[at].clone());
        at += 1;
    }
    (kept, test_modules)
}

/// Whether an attribute is `cfg(test)`, or `cfg(all(test, …))`.
fn is_for_tests(attribute: &[Token]) -> bool {
    let has = |text: &str| attribute.iter().any(|token| token.is(text));
    attribute.first().is_some_and(|first| first.is("cfg"))
        && has("test")
        && !has("not")
        && !has("any")
}

/// Where the item, field, arm or statement that begins at `at` is over.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while tokens[at].is("#") {
        at = closing(tokens, at + 1) + 1;
    }
    if tokens[at].is("pub") {
        at += 1;
        if tokens[at].is("(") {
            at = closing(tokens, at) + 1;
        }
    }
    let constant = tokens[at].is("const") && tokens.get(at + 2).is_some_and(|token| token.is(":"));
    let ends_in_semicolon =
        constant || ["use", "static", "type", "let"].contains(&tokens[at].text.as_str());
    let ends_in_comma = !ends_in_semicolon && !ITEM_KEYWORDS.contains(&tokens[at].text.as_str());
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            ";" => return at + 1,
            "," if ends_in_comma => return at + 1,
            ")" | "]" | "}" => return at,
            "{" if !ends_in_semicolon => return closing(tokens, at) + 1,
            "(" | "[" | "{" => at = closing(tokens, at) + 1,
            _ => at += 1,
        }
    }
    at
}

const ITEM_KEYWORDS: &[&str] = &[
    "async",
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "macro_rules",
    "mod",
    "struct",
    "trait",
    "union",
    "unsafe",
];

pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while !rest.is_empty() {
        let (lexeme, length) = lex(rest);
        let text = match lexeme {
            Lexeme::Nothing => None,
            Lexeme::Literal => Some("\"\""),
            Lexeme::Word => Some(rest[..length].trim_start_matches("r#")),
            Lexeme::Mark => Some(&rest[..length]),
        };
        tokens.extend(text.map(|text| Token {
            text: text.to_owned(),
            line,
        }));
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

enum Lexeme {
    /// Blanks, comments and lifetimes.
    Nothing,
    Literal,
    Word,
    Mark,
}

/// What `rest` begins with, and its length in bytes.
fn lex(rest: &str) -> (Lexeme, usize) {
    let first = rest.chars().next().map_or(0, char::len_utf8);
    if rest.starts_with(char::is_whitespace) {
        (Lexeme::Nothing, first)
    } else if rest.starts_with("//") {
        (Lexeme::Nothing, rest.find('\n').unwrap_or(rest.len()))
    } else if rest.starts_with("/*") {
        (Lexeme::Nothing, block_comment(rest))
    } else if let Some(length) = raw_string(rest).or_else(|| quoted(rest)) {
        (Lexeme::Literal, length)
    } else if let Some(lifetime) = rest.strip_prefix('\'') {
        (Lexeme::Nothing, 1 + word(lifetime))
    } else if let Some(raw) = rest.strip_prefix("r#") {
        (Lexeme::Word, 2 + word(raw))
    } else if word(rest) > 0 {
        (Lexeme::Word, word(rest))
    } else if rest.starts_with("::") {
        (Lexeme::Mark, 2)
    } else {
        (Lexeme::Mark, first)
    }
}

fn is_word_char(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn word(rest: &str) -> usize {
    rest.find(|c| !is_word_char(c)).unwrap_or(rest.len())
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while let Some(next) = rest[at..].find(['/', '*']) {
        at += next;
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += 1;
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn raw_string(rest: &str) -> Option<usize> {
    let unprefixed = rest.trim_start_matches(['b', 'c']).strip_prefix('r')?;
    let opened = unprefixed.trim_start_matches('#');
    let close = format!("\"{}", "#".repeat(unprefixed.len() - opened.len()));
    let body = opened.strip_prefix('"')?;
    let end = body.find(&close)? + close.len();
    Some(rest.len() - body.len() + end)
}

/// A string, a byte string, a character; not a lifetime.
fn quoted(rest: &str) -> Option<usize> {
    let opened = rest.strip_prefix(['b', 'c']).unwrap_or(rest);
    let quote = opened.chars().next().filter(|c| ['"', '\''].contains(c))?;
    let body = &opened[1..];
    if quote == '\'' && !body.starts_with('\\') && body.chars().nth(1) != Some('\'') {
        return None;
    }
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        if c == quote && !escaped {
            return Some(rest.len() - body.len() + at + 1);
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Source, module_of, tokens};

    fn texts(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_strings_and_lifetimes_are_not_code() {
        assert_eq!(texts("a // b\nc /* d /* e */ f */ g"), ["a", "c", "g"]);
        assert_eq!(
            texts(r#"a("b\"c", b"d", c"e", 'f', '\'', b'g', '\u{1F600}')"#).concat(),
            "a(\"\",\"\",\"\",\"\",\"\",\"\",\"\")"
        );
        assert_eq!(
            texts("r\"a\\\" b r##\"c\"# d\"## br\"e\" r#type rest brief"),
            ["\"\"", "b", "\"\"", "\"\"", "type", "rest", "brief"]
        );
        assert_eq!(texts("&'a str, 'static"), ["&", "str", ","]);
        assert_eq!(texts("a::b:c"), ["a", "::", "b", ":", "c"]);
    }

    #[test]
    fn lines_are_counted_through_comments_and_strings() {
        let lines: Vec<_> = tokens("a\n/*\n\n*/ b \"\n\" c")
            .iter()
            .map(|token| token.line)
            .collect();
        assert_eq!(lines, [1, 4, 4, 5]);
    }

    #[test]
    fn a_file_belongs_to_the_module_its_path_says() {
        let module = |path: &str| module_of(Path::new(path)).join("::");
        assert_eq!(module("lib.rs"), "");
        assert_eq!(module("key.rs"), "key");
        assert_eq!(module("key/mod.rs"), "key");
        assert_eq!(module("key/query.rs"), "key::query");
        assert_eq!(Source::parse("key/query.rs", "").floor(), "key");
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_is_known() {
        let source = Source::parse(
            "key/mod.rs",
            "mod query;\n#[cfg(test)]\nmod tests;\n#[cfg(test)] mod inline {}",
        );
        assert_eq!(source.test_modules, ["tests"]);
        assert_eq!(source.tokens.len(), 3);
        assert!(
            Source::parse("key/tests.rs", "#![cfg(test)]\nuse a::b;")
                .tokens
                .is_empty()
        );
    }
}
