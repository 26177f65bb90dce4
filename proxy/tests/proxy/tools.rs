//! A proxy in a process of its own, an origin that says just the bytes it is told, and a client that hides nothing.

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    let limit = Duration::from_secs(20);
    timeout(limit, future).await.expect("this takes too long")
}

/// Waits until this holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    in_time(async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tower-response-cache-proxy"))
}

pub(crate) const TOKEN: &str = "a-secret-of-the-tests";

/// The proxy, killed when this is dropped.
pub(crate) struct Proxy {
    process: Child,
    _output: Lines<BufReader<ChildStdout>>,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Proxy {
    pub(crate) async fn before(origin: &Origin, arguments: &[&str]) -> Self {
        Self::before_address(origin.address, arguments).await
    }

    pub(crate) async fn before_address(origin: SocketAddr, arguments: &[&str]) -> Self {
        Self::run(&format!("http://{origin}"), arguments, Stdio::null()).await
    }

    pub(crate) async fn run(origin: &str, arguments: &[&str], errors: Stdio) -> Self {
        let mut command = Command::new(binary());
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--origin", origin]).args(arguments);
        command.env("ADMIN_TOKEN", TOKEN);
        command.stdout(Stdio::piped()).stderr(errors);
        let mut process = command.kill_on_drop(true).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut address = async |says: &str| {
            let line = in_time(output.next_line()).await.unwrap();
            let line = line.expect("it says where it is");
            line.strip_prefix(says).unwrap().parse().unwrap()
        };
        let admin = address("administration on http://").await;
        let address = address("listening on http://").await;
        Self {
            process,
            _output: output,
            address,
            admin,
        }
    }

    pub(crate) fn process(&mut self) -> &mut Child {
        &mut self.process
    }

    /// What the process manager sends.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.id().expect("it runs").to_string();
        let mut kill = std::process::Command::new("kill");
        assert!(kill.args([name, &id]).status().unwrap().success());
    }

    pub(crate) async fn connect(&self) -> Wire {
        Wire::to(self.address).await
    }

    /// A client of HTTP/2 with prior knowledge.
    pub(crate) async fn http2(&self) -> SendRequest<Empty<Bytes>> {
        let stream = TokioIo::new(TcpStream::connect(self.address).await.unwrap());
        let handshake = http2::handshake(TokioExecutor::new(), stream);
        let (client, connection) = in_time(handshake).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// One request on a connection of its own, and its answer.
    pub(crate) async fn say(&self, request: &str) -> Answer {
        let mut wire = self.connect().await;
        wire.send(request).await;
        wire.answer_to(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.get_with(path, "").await
    }

    /// `more` are lines of headers, each with its end.
    pub(crate) async fn get_with(&self, path: &str, more: &str) -> Answer {
        self.say(&format!(
            "GET {path} HTTP/1.1\r\nHost: site.example\r\n{more}\r\n"
        ))
        .await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        let (length, kind) = (body.len(), "Content-Type: application/json");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: site.example\r\n{kind}\r\nContent-Length: {length}"
        );
        self.say(&format!("{head}\r\n\r\n{body}")).await
    }

    /// Asks at the administrative address, with the token.
    pub(crate) async fn govern(&self, method: &str, path: &str) -> Answer {
        let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
        let request = format!("{method} {path} HTTP/1.1\r\nHost: admin\r\n{bearer}\r\n");
        let mut wire = Wire::to(self.admin).await;
        wire.send(&request).await;
        wire.answer_to(&request).await
    }
}

/// What an origin says next.
#[derive(Clone)]
pub(crate) enum Step {
    Say(Vec<u8>),
    /// Waits until the test opens the gate.
    Wait(Gate),
    Close,
}

pub(crate) fn say(bytes: impl AsRef<[u8]>) -> Vec<Step> {
    vec![Step::Say(bytes.as_ref().to_vec())]
}

pub(crate) fn say_and_close(bytes: impl AsRef<[u8]>) -> Vec<Step> {
    vec![Step::Say(bytes.as_ref().to_vec()), Step::Close]
}

/// 200, with these lines of headers and a length.
pub(crate) fn ok(headers: &str, body: &str) -> Vec<Step> {
    say(format!(
        "HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// 200, to be stored.
pub(crate) fn stored(body: &str) -> Vec<Step> {
    ok("Cache-Control: s-maxage=600\r\n", body)
}

#[derive(Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub(crate) fn open(&self) {
        self.0.add_permits(1 << 20);
    }
}

/// What an origin was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// How many requests there were, with this.
    pub(crate) number: usize,
    /// How many of them came on the same connection.
    pub(crate) on_connection: usize,
    pub(crate) line: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        all(&self.fields, name)
    }

    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name}: {all:?}");
        all.first().copied()
    }
}

fn all<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let named = fields
        .iter()
        .filter(|(known, _)| known.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_str()).collect()
}

/// An origin that answers each request with the steps that the test chooses.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Origin {
    pub(crate) async fn new<F>(answer: F) -> Self
    where
        F: Fn(&Asked) -> Vec<Step> + Send + Sync + 'static,
    {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), answer).await
    }

    /// One that comes up again where another went down.
    pub(crate) async fn at<F>(address: SocketAddr, answer: F) -> Self
    where
        F: Fn(&Asked) -> Vec<Step> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (count, record, answer) = (accepted.clone(), asked.clone(), Arc::new(answer));
        let task = tokio::spawn(async move {
            // Aborted with this task.
            let mut conversations = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                conversations.spawn(converse(stream, record.clone(), answer.clone()));
            }
        });
        Self {
            address,
            accepted,
            asked,
            task,
        }
    }

    /// How many connections were made.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn calls(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub(crate) fn last(&self) -> Asked {
        self.asked
            .lock()
            .unwrap()
            .last()
            .expect("it was asked")
            .clone()
    }

    /// Whoever comes now is refused, and who was there is left.
    pub(crate) async fn goes_down(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Answering = Arc<dyn Fn(&Asked) -> Vec<Step> + Send + Sync>;

async fn converse(stream: TcpStream, record: Arc<Mutex<Vec<Asked>>>, answer: Answering) {
    let mut wire = Wire::over(stream);
    let mut on_connection = 0;
    while let Some(message) = wire.message(Framing::Request).await {
        on_connection += 1;
        let asked = {
            let mut record = record.lock().unwrap();
            let asked = Asked {
                number: record.len() + 1,
                on_connection,
                line: message.line,
                fields: message.fields,
                body: String::from_utf8(message.body).unwrap(),
            };
            record.push(asked.clone());
            asked
        };
        for step in answer(&asked) {
            match step {
                Step::Say(bytes) => {
                    if wire.stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Step::Wait(gate) => gate.0.acquire().await.unwrap().forget(),
                Step::Close => return,
            }
        }
    }
}

/// A connection, and what was read of it beyond what was looked at.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    rest: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum Framing {
    Request,
    Response,
    /// Of HEAD: it has no body, whatever it says.
    Head,
}

/// A message as it came.
struct Message {
    line: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
    is_whole: bool,
}

impl Wire {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self::over(in_time(TcpStream::connect(address)).await.unwrap())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            rest: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        in_time(self.stream.write_all(text.as_ref())).await.unwrap();
    }

    /// Nothing more is sent.
    pub(crate) async fn end(&mut self) {
        in_time(self.stream.shutdown()).await.unwrap();
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    pub(crate) async fn answer_to(&mut self, request: &str) -> Answer {
        self.answer_if_any(request).await.expect("an answer")
    }

    /// Nothing, if the other side closes before it says anything.
    pub(crate) async fn answer_if_any(&mut self, request: &str) -> Option<Answer> {
        let is_head = request.starts_with("HEAD");
        let framing = if is_head {
            Framing::Head
        } else {
            Framing::Response
        };
        in_time(self.message(framing)).await.map(Answer::from)
    }

    /// Whether the other side has closed.
    pub(crate) async fn is_closed(&mut self) -> bool {
        in_time(self.more()).await == 0
    }

    /// Reads until so many bytes of what follows are there.
    pub(crate) async fn read_bytes(&mut self, bytes: usize) -> Vec<u8> {
        in_time(async {
            while self.rest.len() < bytes {
                assert!(self.more().await > 0, "it ends");
            }
        })
        .await;
        self.rest.drain(..bytes).collect()
    }

    /// Reads the head of a message, and nothing of its body.
    pub(crate) async fn head(&mut self) -> String {
        in_time(self.read_head()).await.expect("a head")
    }

    async fn more(&mut self) -> usize {
        self.rest.reserve(16 << 10);
        // A connection that is reset is closed too.
        self.stream.read_buf(&mut self.rest).await.unwrap_or(0)
    }

    async fn read_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.rest.windows(end.len()).position(|part| part == end) {
                return Some(self.rest.drain(..at + end.len()).collect());
            }
            if self.more().await == 0 {
                return None;
            }
        }
    }

    /// Bytes above 127 are characters of their own, so that none is lost.
    async fn read_head(&mut self) -> Option<String> {
        let head = self.read_until(b"\r\n\r\n").await?;
        Some(head.iter().map(|&b| char::from(b)).collect())
    }

    async fn message(&mut self, framing: Framing) -> Option<Message> {
        let head = self.read_head().await?;
        let (line, lines) = head.split_once("\r\n").unwrap();
        let fields = fields(lines);
        let mut message = Message {
            line: line.to_owned(),
            body: Vec::new(),
            trailers: Vec::new(),
            is_whole: true,
            fields,
        };
        let status = line.split(' ').nth(1).unwrap_or_default();
        let is_bare = framing == Framing::Response
            && (status.starts_with('1') || ["204", "304"].contains(&status));
        if framing == Framing::Head || is_bare {
            return Some(message);
        }
        let chunked = all(&message.fields, "transfer-encoding") == ["chunked"];
        let length = all(&message.fields, "content-length")
            .first()
            .map(|length| length.parse().unwrap());
        if chunked {
            self.read_chunks(&mut message).await;
        } else if let Some(length) = length {
            while self.rest.len() < length && self.more().await > 0 {}
            message.is_whole = self.rest.len() >= length;
            message.body = self.rest.drain(..length.min(self.rest.len())).collect();
        } else if framing == Framing::Response {
            while self.more().await > 0 {}
            message.body = std::mem::take(&mut self.rest);
        }
        Some(message)
    }

    async fn read_chunks(&mut self, message: &mut Message) {
        message.is_whole = false;
        loop {
            let Some(size) = self.read_until(b"\r\n").await else {
                return;
            };
            let size =
                usize::from_str_radix(std::str::from_utf8(&size).unwrap().trim(), 16).unwrap();
            if size == 0 {
                let mut lines = String::new();
                while let Some(line) = self.read_until(b"\r\n").await {
                    if line == b"\r\n" {
                        message.trailers = fields(&lines);
                        message.is_whole = true;
                        return;
                    }
                    lines.extend(line.iter().map(|&b| char::from(b)));
                }
                return;
            }
            while self.rest.len() < size + 2 {
                if self.more().await == 0 {
                    return;
                }
            }
            message.body.extend(self.rest.drain(..size));
            self.rest.drain(..2);
        }
    }
}

fn fields(lines: &str) -> Vec<(String, String)> {
    let lines = lines.split("\r\n").filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.split_once(':').expect("a field");
            (name.to_owned(), value.trim_matches(' ').to_owned())
        })
        .collect()
}

/// What a client got.
pub(crate) struct Answer {
    pub(crate) line: String,
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// Whether the body came to its end.
    pub(crate) is_whole: bool,
}

impl From<Message> for Answer {
    fn from(message: Message) -> Self {
        let status = message.line.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            status,
            line: message.line,
            fields: message.fields,
            body: message.body,
            trailers: message.trailers,
            is_whole: message.is_whole,
        }
    }
}

impl Answer {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        all(&self.fields, name)
    }

    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name}: {all:?}");
        all.first().copied()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn is_hit(&self) -> bool {
        let status = self.all("cache-status");
        status.iter().any(|status| status.contains("; hit"))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("line", &self.line)
            .field("fields", &self.fields)
            .field("body", &String::from_utf8_lossy(&self.body))
            .field("is_whole", &self.is_whole)
            .finish_non_exhaustive()
    }
}
