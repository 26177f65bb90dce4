//! What a purge compares of a key.

use super::{
    encode::{self, KeyBytes, Tag, put},
    target,
};

/// A key, as far as a purge by request compares it: its head, without the scheme, with the authority, the path and the query in
/// a form that all spellings of one target share (RFC 3986 §6.2.2), and with the target that the client sent in place of what a
/// router has made of it.
///
/// It is made of the key, and of nothing else. So two requests with one key have one purge form: a purge compares more loosely
/// than a key, and never more strictly.
pub(crate) fn purge_form(head: &[u8]) -> KeyBytes {
    let Some(items) = encode::items(head) else {
        // Never of what was made here.
        return KeyBytes::from_slice(head);
    };
    let is_routed = items.iter().any(|(tag, _)| *tag == Tag::OriginalPath);
    let mut form = KeyBytes::new();
    let mut of_the_query = false;
    for (tag, value) in items {
        if tag != Tag::Value {
            of_the_query = matches!(tag, Tag::RawQuery | Tag::OriginalQuery | Tag::Parameter);
        }
        match tag {
            Tag::Scheme => {}
            Tag::Path if is_routed => {}
            Tag::Authority => target::put_comparable_authority(&mut form, value),
            Tag::Path | Tag::OriginalPath => {
                put(&mut form, Tag::Path, &target::normalized_path(value));
            }
            Tag::Value if of_the_query => put(&mut form, tag, &target::normalized(value)),
            _ => put(&mut form, tag, value),
        }
    }
    form
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::key::{Key, KeyPrefix};

    fn form(key: Key, uri: &str, headers: &[(&str, &str)]) -> KeyBytes {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let (selection, _) = key.into_parts();
        let mut made = KeyBytes::new();
        let prefix = KeyPrefix::new("", "", None, 1);
        let reach = selection.encode_head(&prefix, &parts, 1 << 13, &mut made);
        purge_form(&made[..reach.unwrap().head])
    }

    // Invariant 62.
    #[test]
    fn all_forms_and_spellings_of_one_target_have_one_purge_form() {
        let host = |host| [("host", host)];
        let expected = form(Key::new(), "/%C3%A9/a~?q=%2F~", &host("h"));
        for (uri, headers) in [
            ("/%c3%a9/a%7E?q=%2f%7e", &host("H:80")[..]),
            ("/b/../%c3%A9/%61~?q=%2f~", &host("h:443")),
            ("http://h/%C3%A9/a~?q=%2F~", &[]),
            ("https://H:443/%C3%A9/a~?q=%2F~", &host("h")),
            ("https://h:80/%C3%A9/a~?q=%2F~", &[]),
        ] {
            assert_eq!(form(Key::new(), uri, headers), expected, "{uri}");
        }
        for uri in ["/%C3%A9/a~", "/%C3%A9/a~?q=/~", "/%C3%A9/a~/?q=%2F~"] {
            assert_ne!(form(Key::new(), uri, &host("h")), expected, "{uri}");
        }
        assert_ne!(form(Key::new(), "/%C3%A9/a~?q=%2F~", &host("g")), expected);
    }

    #[test]
    fn parameters_that_are_not_in_the_key_are_not_in_the_purge_form() {
        let key = || Key::new().query(["q", "page"]);
        let expected = form(key(), "/?page=2&q=a%2Fb", &[]);
        for query in ["q=%61%2fb&utm=1&page=2", "%71=a%2fb&page=%32&"] {
            assert_eq!(form(key(), &format!("/?{query}"), &[]), expected, "{query}");
        }
        assert_ne!(form(key(), "/?page=2&q=a/b", &[]), expected);
    }
}
