//! The options: on the command line, in a file, and what contradicts itself.

use std::{path::PathBuf, process::Output};

use crate::tools::{Origin, Proxy, binary, in_time, ok, stored};

const ORIGIN: [&str; 2] = ["--origin", "http://127.0.0.1:9"];

async fn run(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(binary());
    command
        .args(arguments)
        .env_remove("ADMIN_TOKEN")
        .kill_on_drop(true);
    in_time(command.output()).await.unwrap()
}

/// What the proxy says when it does not start with these options.
async fn error(arguments: &[&str]) -> String {
    let output = run(&[&ORIGIN, arguments].concat()).await;
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A configuration file, removed when this is dropped.
struct Config(PathBuf);

impl Config {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("cache-proxy-{}-{name}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn counting() -> Origin {
    Origin::new(|asked| stored(&asked.number.to_string())).await
}

/// Whether the second of these requests gets the response to the first.
async fn share(options: &[&str], one: [&str; 2], other: [&str; 2]) -> bool {
    let origin = counting().await;
    let proxy = Proxy::before(&origin, options).await;
    proxy.get_with(one[0], one[1]).await;
    proxy.get_with(other[0], other[1]).await.is_hit()
}

#[tokio::test]
async fn help_and_version_are_printed_and_succeed() {
    for (option, says) in [
        ("-h", "--refresh-interval"),
        ("--help", "--seal"),
        ("-V", env!("CARGO_PKG_VERSION")),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let output = run(&[option]).await;
        assert!(output.status.success(), "{option}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains(says), "{option}: {said}");
    }
}

#[tokio::test]
async fn options_of_the_file_hold_unless_the_command_line_has_others() {
    let text = "mode = \"policy\"\nttl = 60\nquery = [\"page\"]\nignore-cookies = true";
    let config = Config::new("holds", text);
    let file = ["--config", config.path()];
    let one = ["/p?page=1&utm=1", "Cookie: a=1\r\n"];
    let other = ["/p?page=1&utm=2", "Cookie: a=2\r\n"];
    assert!(share(&file, one, other).await);
    for option in [&["--query", "utm"][..], &["--ignore-cookies=false"]] {
        let options = [&file[..], option].concat();
        assert!(!share(&options, one, other).await, "{option:?}");
    }
}

#[tokio::test]
async fn an_error_of_the_file_names_the_file_and_the_option() {
    for (number, line) in [
        "time-to-live = 60",
        "ttl = -1",
        "max-marks = 0",
        "idle-timeout = 0",
        "mode = \"fast\"",
        "origin = \"https://a.example\"",
        "key-header = [\"a b\"]",
        "config = \"other.toml\"",
    ]
    .into_iter()
    .enumerate()
    {
        let config = Config::new(&format!("wrong-{number}"), line);
        let said = error(&["--config", config.path()]).await;
        let name = line.split(' ').next().unwrap();
        assert!(said.contains(config.path()), "{said}");
        assert!(said.contains(name), "{said}");
    }
    let said = error(&["--config", "/no/such/file"]).await;
    assert!(
        said.contains("--config /no/such/file: No such file"),
        "{said}"
    );
}

#[tokio::test]
async fn zero_is_refused_where_it_makes_no_sense() {
    for option in [
        "--max-bytes",
        "--max-body-bytes",
        "--max-marks",
        "--max-connections",
        "--origin-connections",
        "--header-timeout",
        "--idle-timeout",
        "--origin-timeout",
    ] {
        let said = error(&[option, "0"]).await;
        assert!(said.contains(option) && said.contains("zero"), "{said}");
    }
}

#[tokio::test]
async fn options_that_contradict_each_other_are_refused_with_a_cure() {
    for (options, cure) in [
        (
            &["--query", "a", "--query-except", "b"][..],
            "leave one of the two out",
        ),
        (
            &["--key-header", "cookie", "--ignore-cookies"],
            "--key-cookie",
        ),
        (
            &["--key-header", "Authorization", "--ignore-authorization"],
            "leave one of the two out",
        ),
        (&["--key-cookie", "a=1"], "write --key-cookie region"),
        (
            &["--mode", "policy", "--ignore-client-directives"],
            "leave it out",
        ),
        (
            &["--search-paths", "--no-invalidation"],
            "leave one of the two out",
        ),
        (&["--search-paths", "--query", "size"], "use --query-except"),
        (&["--max-bytes", "10", "--max-body-bytes", "11"], "lower it"),
        (&["--refresh-interval", "1"], "give --search-paths too"),
        (
            &["--mode", "policy", "--target", "A"],
            "choose --mode rfc9111",
        ),
    ] {
        let said = error(options).await;
        assert!(
            said.contains(options[0]) || said.contains(options[2]),
            "{said}"
        );
        assert!(said.contains(cure), "{options:?}: {said}");
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_is_named_with_its_option() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (options, says) in [
        (
            &["--listen", &taken][..],
            format!("--listen {taken}: address in use"),
        ),
        (
            &["--admin", &taken, "--admin-token", "secret"],
            format!("--admin {taken}: address in use"),
        ),
        (
            &["--listen", "here"],
            "--listen here: invalid socket address".to_owned(),
        ),
    ] {
        let said = error(options).await;
        assert!(said.contains(&says), "{options:?}: {said}");
    }
}

const POLICY: [&str; 2] = ["--mode", "policy"];

#[tokio::test]
async fn the_key_has_the_parameters_and_headers_that_the_options_name() {
    let header = ["--key-header", "X-Tenant"];
    for (options, one, other, shared) in [
        (
            &["--query", "page", "x*"][..],
            "?page=1&a=1",
            "?a=2&page=1",
            true,
        ),
        (
            &["--query", "page", "x*"],
            "?page=1&xa=1",
            "?page=1&xa=2",
            false,
        ),
        (&["--query-except", "utm_*"], "?a=1&utm_b=1", "?a=1", true),
        (&["--query-except", "utm_*"], "?a=1", "?a=2", false),
    ] {
        let (one, other) = (format!("/p{one}"), format!("/p{other}"));
        let is_shared = share(options, [&one, ""], [&other, ""]).await;
        assert_eq!(is_shared, shared, "{options:?} {one} {other}");
    }
    for (options, shared) in [(&[][..], true), (&header, false)] {
        let (one, other) = (["/p", "X-Tenant: a\r\n"], ["/p", "X-Tenant: b\r\n"]);
        assert_eq!(share(options, one, other).await, shared, "{options:?}");
    }
}

#[tokio::test]
async fn requests_with_cookies_or_credentials_share_what_the_options_let_them() {
    for (options, one, other, shared) in [
        (
            &["--key-cookie", "c"][..],
            "Cookie: c=1",
            "Cookie: c=1",
            true,
        ),
        (&["--key-cookie", "c"], "Cookie: c=1", "Cookie: c=2", false),
        (
            &["--key-cookie", "c"],
            "Cookie: c=1; d=1",
            "Cookie: c=1; d=1",
            false,
        ),
        (
            &["--key-cookie", "c", "--ignore-cookies"],
            "Cookie: c=1; d=1",
            "Cookie: c=1",
            true,
        ),
        (&[], "X-Api-Key: a", "X-Api-Key: a", false),
        (
            &["--ignore-authorization"],
            "X-Api-Key: a",
            "X-Api-Key: b",
            true,
        ),
        (&["--seal"], "X-Api-Key: a", "Cookie: c=1", true),
    ] {
        let (one, other) = (format!("{one}\r\n"), format!("{other}\r\n"));
        let is_shared = share(&[&POLICY, options].concat(), ["/p", &one], ["/p", &other]).await;
        assert_eq!(is_shared, shared, "{options:?} {one} {other}");
    }
}

#[tokio::test]
async fn a_sealed_origin_does_not_see_what_is_not_in_the_key() {
    let origin = counting().await;
    let proxy = Proxy::before(
        &origin,
        &["--seal", "--query", "page", "--key-header", "X-Tenant"],
    )
    .await;
    let lines = "X-Tenant: a\r\nX-Other: b\r\nCookie: c=1\r\nAuthorization: Basic bWU6bWU=\r\n";
    proxy.get_with("/p?page=1&a=1", lines).await;
    let asked = origin.last();
    assert_eq!(asked.line, "GET /p?page=1 HTTP/1.1");
    assert_eq!(asked.one("x-tenant"), Some("a"));
    for name in ["x-other", "cookie", "authorization", "x-forwarded-for"] {
        assert_eq!(asked.one(name), None, "{name}");
    }
}

#[tokio::test]
async fn clients_and_writes_leave_the_cache_alone_where_the_options_say_so() {
    for (option, is_hit) in [(&[][..], false), (&["--ignore-client-directives"], true)] {
        let no_cache = ["/p", "Cache-Control: no-cache\r\n"];
        assert_eq!(
            share(option, ["/p", ""], no_cache).await,
            is_hit,
            "{option:?}"
        );
    }
    for (option, is_hit) in [(&[][..], false), (&["--no-invalidation"], true)] {
        let origin = counting().await;
        let proxy = Proxy::before(&origin, option).await;
        proxy.get("/p").await;
        assert_eq!(proxy.send("POST", "/p", "{}").await.status, 200);
        assert_eq!(proxy.get("/p").await.is_hit(), is_hit, "{option:?}");
    }
}

#[tokio::test]
async fn fewer_marks_purge_more_than_was_asked_for() {
    for (option, is_hit) in [(&[][..], true), (&["--max-marks", "1"], false)] {
        let origin =
            Origin::new(|_| ok("Cache-Control: s-maxage=600\r\nSurrogate-Key: kept\r\n", "")).await;
        let proxy = Proxy::before(&origin, option).await;
        proxy.get("/p").await;
        for number in 0..8 {
            let purged = proxy
                .govern("POST", &format!("/purge/tags?tag=t{number}"))
                .await;
            assert_eq!(purged.status, 200);
        }
        assert_eq!(proxy.get("/p").await.is_hit(), is_hit, "{option:?}");
    }
}
