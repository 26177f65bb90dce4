//! The crates that public signatures name: functions, fields, variants, aliases, traits, re-exports, and the
//! implementations for public types.

use std::collections::{BTreeMap, BTreeSet};

use crate::imports;
use crate::source::{Source, Token, closing};

/// Where in `sources` a public signature names one of the crates in `private`.
pub(crate) fn leaks(sources: &[Source], private: &[String]) -> Vec<String> {
    let public: BTreeSet<&str> = sources.iter().flat_map(public_types).collect();
    let mut faults = Vec::new();
    for source in sources {
        let in_scope = names_from(source, private);
        let named = signatures(&source.tokens, &public)
            .into_iter()
            .flat_map(|signature| roots(signature).into_iter())
            .filter_map(|token| Some((token, in_scope.get(&token.text)?)));
        for (token, krate) in named {
            let place = format!("src/{}:{}", source.path.display(), token.line);
            faults.push(format!("{place}: `{}`, of `{krate}`", token.text));
        }
    }
    faults.dedup();
    faults
}

fn public_types(source: &Source) -> Vec<&str> {
    let kinds = ["struct", "enum", "union", "trait", "type"];
    source
        .tokens
        .windows(3)
        .filter(|window| window[0].is("pub") && kinds.contains(&window[1].text.as_str()))
        .map(|window| window[2].text.as_str())
        .collect()
}

/// The names that stand for something of the crates in `private`, each with its crate.
fn names_from(source: &Source, private: &[String]) -> BTreeMap<String, String> {
    let crates = private.iter().map(|krate| (krate.clone(), krate.clone()));
    let imported = imports::of(source).into_iter().filter_map(|import| {
        let krate = import.path.first().filter(|root| private.contains(root))?;
        Some((import.name?, krate.clone()))
    });
    imported.chain(crates).collect()
}

/// The words in a signature that begin a path: no segments after the first, no names being declared, no parameters.
fn roots(signature: &[Token]) -> Vec<&Token> {
    let declarers = [
        "fn", "struct", "enum", "union", "trait", "type", "mod", "const", "static",
    ];
    let before = |at: usize, back: usize| at.checked_sub(back).map(|before| &signature[before]);
    let begins = |at: usize| match before(at, 1) {
        Some(separator) if separator.is("::") => !before(at, 2).is_some_and(|end| {
            let generics = end.is(">") && !before(at, 3).is_some_and(|dash| dash.is("-"));
            end.is_word() || generics
        }),
        Some(word) => !declarers.contains(&word.text.as_str()),
        None => true,
    };
    let is_declared = |at: usize| signature.get(at + 1).is_some_and(|after| after.is(":"));
    (0..signature.len())
        .filter(|at| signature[*at].is_word() && begins(*at) && !is_declared(*at))
        .map(|at| &signature[at])
        .collect()
}

/// The spans of `tokens` that a user of the crate depends on.
fn signatures<'a>(tokens: &'a [Token], public: &BTreeSet<&str>) -> Vec<&'a [Token]> {
    let mut spans = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if token.is("pub") && !tokens[at + 1].is("(") {
            spans.extend(of_item(tokens, at + 1));
        } else if token.is("impl") && is_item(tokens, at) {
            let end = until(tokens, at, &["{"]);
            if implementing(&tokens[at + 1..end])
                .iter()
                .any(|name| public.contains(name))
            {
                spans.push(&tokens[at..end]);
                spans.extend(associated_types(tokens, end));
            }
        }
    }
    spans
}

/// What is public of the item, or field, after the `pub` before `at`.
fn of_item(tokens: &[Token], at: usize) -> Vec<&[Token]> {
    match tokens[at].text.as_str() {
        "use" => vec![&tokens[at..until(tokens, at, &[";"])]],
        "enum" => {
            let body = until(tokens, at, &["{"]);
            vec![&tokens[at..closing(tokens, body)]]
        }
        // The fields of a tuple that are public say so themselves.
        "struct" => vec![&tokens[at..until(tokens, at, &["(", "{", ";"])]],
        "trait" => {
            let body = until(tokens, at, &["{"]);
            let mut spans = vec![&tokens[at..body]];
            spans.extend(declarations(tokens, body));
            spans
        }
        "async" | "const" | "extern" | "fn" | "mod" | "static" | "type" | "union" | "unsafe" => {
            vec![&tokens[at..until(tokens, at, &["{", ";"])]]
        }
        _ => vec![&tokens[at..field_end(tokens, at)]],
    }
}

/// The first of `ends` from `at` on that is not inside brackets opened on the way.
fn until(tokens: &[Token], mut at: usize, ends: &[&str]) -> usize {
    while at < tokens.len() && !ends.contains(&tokens[at].text.as_str()) {
        let opens = ["(", "[", "{"].contains(&tokens[at].text.as_str());
        at = if opens { closing(tokens, at) } else { at } + 1;
    }
    at
}

fn field_end(tokens: &[Token], mut at: usize) -> usize {
    let mut angles = 0;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "(" | "[" | "{" => at = closing(tokens, at),
            ")" | "]" | "}" => break,
            "," if angles == 0 => break,
            _ => angles += angle(tokens, at),
        }
        at += 1;
    }
    at
}

/// How much deeper in angle brackets it is after the token at `at`.
fn angle(tokens: &[Token], at: usize) -> i32 {
    let arrow = at > 0 && (tokens[at - 1].is("-") || tokens[at - 1].is("="));
    i32::from(tokens[at].is("<")) - i32::from(tokens[at].is(">") && !arrow)
}

/// What a trait's body declares, without the bodies of its methods.
fn declarations(tokens: &[Token], body: usize) -> Vec<&[Token]> {
    let (mut spans, mut at, close) = (Vec::new(), body + 1, closing(tokens, body));
    while at < close {
        let end = until(tokens, at, &["{", ";"]).min(close);
        spans.push(&tokens[at..end]);
        at = 1 + if tokens[end].is("{") {
            closing(tokens, end)
        } else {
            end
        };
    }
    spans
}

fn associated_types(tokens: &[Token], body: usize) -> Vec<&[Token]> {
    let mut spans = declarations(tokens, body);
    spans.retain(|span| span.first().is_some_and(|first| first.is("type")));
    spans
}

/// Whether the `impl` at `at` begins an item, rather than the type of an argument.
fn is_item(tokens: &[Token], at: usize) -> bool {
    at == 0 || ["{", "}", ";", "]", "unsafe"].contains(&tokens[at - 1].text.as_str())
}

/// The trait, if any, and the type of an `impl`, each by the last segment of its name.
fn implementing(header: &[Token]) -> Vec<&str> {
    let (mut names, mut last, mut angles) = (Vec::new(), None, 0);
    for (at, token) in header.iter().enumerate() {
        angles += angle(header, at);
        if angles > 0 {
            continue;
        }
        match token.text.as_str() {
            "for" => names.extend(last.take()),
            "where" => break,
            word if token.is_word() => last = Some(word),
            _ => {}
        }
    }
    names.extend(last);
    names
}

#[cfg(test)]
mod tests {
    use super::leaks;
    use crate::source::Source;

    fn leaks_in(text: &str) -> Vec<String> {
        leaks(
            &[Source::parse("a.rs", text)],
            &["tokio".to_owned(), "moka".to_owned()],
        )
    }

    #[test]
    fn a_private_dependency_is_caught_with_its_file_line_and_crate() {
        let faults = leaks_in("use tokio::time::Instant;\n\npub fn at(\n    now: Instant,\n) {}");
        assert_eq!(faults, ["src/a.rs:4: `Instant`, of `tokio`"]);
    }

    #[test]
    fn every_public_place_that_names_it_is_caught() {
        for text in [
            "pub fn f(a: tokio::A) {}",
            "pub fn f() -> Vec<tokio::A> {}",
            "pub fn f<T>() where T: Fn(&str) -> ::tokio::A {}",
            "pub async fn f(a: tokio::A) {}",
            "pub const fn f(a: tokio::A) {}",
            "use tokio::time; pub fn f(a: time::A) {}",
            "use tokio::{sync::{self, watch as w}}; pub fn f(a: w::A) {}",
            "use tokio::{sync::{self, watch as w}}; pub fn f(a: sync::A) {}",
            "pub struct S<T: tokio::A>(T);",
            "pub struct S(u8, pub tokio::A);",
            "pub struct S { pub a: HashMap<u8, tokio::A> }",
            "pub enum E { A, B(tokio::A) }",
            "pub enum E { A { a: tokio::A } }",
            "pub type T = moka::A;",
            "pub const C: tokio::A = tokio::A;",
            "pub use tokio::time::Instant;",
            "pub extern crate tokio;",
            "pub trait T: tokio::A {}",
            "pub trait T { fn f() {} fn g(&self) -> impl Fn(tokio::A); }",
            "pub trait T { type A: tokio::A; }",
            "pub struct S; impl S { pub fn f(a: tokio::A) {} }",
            "pub struct S; impl<A> S where A: tokio::A {}",
            "pub struct S; impl From<tokio::A> for S {}",
            "pub struct S; impl tokio::A for S {}",
            "pub struct S<T>(T); impl<T: Fn() -> u8> Service<T> for S<T> { fn f() {} type Future = tokio::A; }",
            "pub trait T {} impl T for moka::A {}",
        ] {
            assert_ne!(leaks_in(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn what_no_user_sees_is_let_through() {
        for text in [
            "use tokio::time::Instant; fn f(a: Instant) {}",
            "pub(crate) fn f(a: tokio::A) {}",
            "pub(super) struct S { pub(super) a: tokio::A }",
            "pub fn f() { tokio::spawn(async {}); }",
            "pub struct S(tokio::A, Vec<moka::A>);",
            "pub struct S { a: tokio::A, pub b: u8, c: tokio::A }",
            "pub trait T { fn f() { tokio::f() } }",
            "struct S; impl From<tokio::A> for S { type A = tokio::A; }",
            "pub struct S; impl Future for S { type Output = u8; fn poll(&self) { tokio::f() } }",
            "use tokio::sync::watch; pub fn watch(watch: u8) {}",
            "use tokio::time; pub fn f(a: std::time::Duration) {}",
            "use tokio::time; pub struct S { pub time: u8 }",
            "/// `tokio::A`\npub fn f() {}",
            "#[cfg(test)] mod tests { pub fn f(a: tokio::A) {} }",
        ] {
            assert_eq!(leaks_in(text), [""; 0], "{text}");
        }
    }
}
