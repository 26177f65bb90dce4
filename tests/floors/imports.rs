//! The paths that a file names: its `use` declarations, and `crate::…` where it stands in code.

use crate::source::{Source, Token, closing};

#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) line: usize,
    /// As written.
    pub(crate) path: Vec<String>,
    /// From the root of this crate; `None` where it leads elsewhere.
    pub(crate) from_root: Option<Vec<String>>,
    /// The name it is known by afterwards, where it is a `use`.
    pub(crate) name: Option<String>,
    pub(crate) glob: bool,
}

pub(crate) fn of(source: &Source) -> Vec<Import> {
    let tokens = &source.tokens;
    let mut module = source.module.clone();
    let mut inline_ends = Vec::new();
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is = |index: usize, text: &str| tokens.get(index).is_some_and(|token| token.is(text));
        if inline_ends.last() == Some(&at) {
            inline_ends.pop();
            module.pop();
        }
        if is(at, "mod") && is(at + 2, "{") {
            module.push(tokens[at + 1].text.clone());
            inline_ends.push(closing(tokens, at + 2));
        }
        let mut paths = Vec::new();
        let from_root =
            ["crate", "self", "super"].iter().any(|root| is(at, root)) && is(at + 1, "::");
        // A macro's `$crate` is a path of whoever calls it, and `a::self` is not the beginning of one.
        let begins = at == 0 || !is(at - 1, "$") && !is(at - 1, "::");
        let end = if is(at, "use") && !is(at + 1, "<") {
            use_tree(tokens, at + 1, &[], &mut paths)
        } else if from_root && begins {
            path(tokens, at, &mut paths)
        } else {
            at + 1
        };
        for import in &mut paths {
            import.from_root = from_the_root(&import.path, &module);
        }
        found.append(&mut paths);
        at = end;
    }
    found
}

/// Reads the tree at `at` into its leaves; returns where it ends.
fn use_tree(tokens: &[Token], mut at: usize, prefix: &[String], leaves: &mut Vec<Import>) -> usize {
    let mut path = prefix.to_vec();
    let line = tokens[at].line;
    loop {
        let token = &tokens[at];
        at += 1;
        match token.text.as_str() {
            "::" => {}
            "{" => {
                while !tokens[at].is("}") {
                    let end = use_tree(tokens, at, &path, leaves);
                    assert!(end > at, "line {line}: a `use` that cannot be read");
                    at = end + usize::from(tokens[end].is(","));
                }
                return at + 1;
            }
            "*" => {
                leaves.push(leaf(line, path, None, true));
                return at;
            }
            "as" => {
                leaves.push(leaf(line, path, Some(tokens[at].text.clone()), false));
                return at + 1;
            }
            _ if token.is_word() => path.push(token.text.clone()),
            _ => {
                if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                    path.pop();
                }
                let name = path.last().cloned();
                leaves.push(leaf(line, path, name, false));
                return at - 1;
            }
        }
    }
}

/// Reads the path at `at`; returns where it ends.
fn path(tokens: &[Token], mut at: usize, leaves: &mut Vec<Import>) -> usize {
    let line = tokens[at].line;
    let mut path = vec![tokens[at].text.clone()];
    while let [separator, word, ..] = &tokens[at + 1..]
        && separator.is("::")
        && word.is_word()
    {
        path.push(word.text.clone());
        at += 2;
    }
    leaves.push(leaf(line, path, None, false));
    at + 1
}

fn leaf(line: usize, path: Vec<String>, name: Option<String>, glob: bool) -> Import {
    Import {
        line,
        path,
        from_root: None,
        name,
        glob,
    }
}

/// Resolves `crate`, `self` and `super`, for a path that stands in `module`.
fn from_the_root(path: &[String], module: &[String]) -> Option<Vec<String>> {
    let mut here = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ => return None,
    };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(here.pop()),
            name => here.push(name.to_owned()),
        }
    }
    Some(here)
}

#[cfg(test)]
mod tests {
    use super::of;
    use crate::source::Source;

    fn names(text: &str) -> Vec<String> {
        let named = |import: super::Import| {
            format!(
                "{}={}",
                import.name.unwrap_or_default(),
                import.path.join("::")
            )
        };
        of(&Source::parse("a.rs", text))
            .into_iter()
            .map(named)
            .collect()
    }

    #[test]
    fn a_use_tree_is_read_into_its_leaves() {
        assert_eq!(
            names("pub use a::{self, b::{C, D as E}, f::*,}; use ::g::H; use i as _;"),
            ["a=a", "C=a::b::C", "E=a::b::D", "=a::f", "H=g::H", "_=i"],
        );
    }

    #[test]
    fn a_path_in_code_is_read_to_its_end() {
        assert_eq!(
            names("fn f() { crate::a::B::<u8>::new(self::c, self.d) }"),
            ["=crate::a::B", "=self::c"]
        );
    }
}
