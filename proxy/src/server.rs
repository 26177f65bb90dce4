//! Connections: how many there may be, and how long each may keep silent.
//!
//! Who sends a byte now and then, of a body or, in HTTP/2, of a head, is not silent, and keeps its place. Where many may do so, limit
//! the connections of each address before this.

use std::{
    convert::Infallible,
    fmt,
    io::{self, Write},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    pin, select,
    sync::{Semaphore, watch},
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};

use crate::fields::MAX_LINES;

/// For how long those who are being answered are waited for at the end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What any head may take, of a request.
const HEAD_BYTES: u32 = 64 << 10;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Writes a line for the operator. If nobody reads it any more, that is no reason to stop.
pub(crate) fn note(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// What is asked of clients.
#[derive(Clone, Copy)]
pub(crate) struct Manners {
    pub(crate) connections: usize,
    /// For a request's head, or for the next request.
    pub(crate) header_timeout: Duration,
    /// For anything to come or go.
    pub(crate) idle_timeout: Duration,
}

/// Answers all who come, in HTTP/1.1 or in HTTP/2 with prior knowledge, until it is told to stop; then those who are there.
pub(crate) async fn serve<F, R>(
    listener: TcpListener,
    manners: Manners,
    mut stop: watch::Receiver<bool>,
    answer: F,
) where
    F: Fn(Request<Incoming>, SocketAddr) -> R + Clone + Send + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let server = server(manners);
    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(manners.connections));
    let stopped = stop.wait_for(|stop| *stop);
    pin!(stopped);
    loop {
        // Those for whom there is no place wait in the kernel's queue.
        let accept = async {
            (
                places.clone().acquire_owned().await,
                listener.accept().await,
            )
        };
        let (place, accepted) = select! {
            accepted = accept => accepted,
            _ = &mut stopped => break,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Such as too many open files: it passes, though not at once.
                note(format_args!("cannot accept: {error}"));
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answer = answer(request, client);
            async { Ok::<_, Infallible>(answer.await) }
        });
        let stream = TokioIo::new(Lively::new(stream, manners));
        let connection = server.serve_connection(stream, service).into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // What a client does wrong ends its own connection, and is not worth a line.
            drop(connection.await);
            drop(place);
        });
    }
    drop(listener);
    if timeout(PATIENCE, connections.shutdown()).await.is_err() {
        note(format_args!(
            "some clients were not done after {PATIENCE:?}"
        ));
    }
}

fn server(manners: Manners) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(manners.header_timeout)
        .max_buf_size(HEAD_BYTES as usize)
        .max_headers(MAX_LINES)
        // Who has said all there is to say may still listen.
        .half_close(true);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES)
        .max_concurrent_streams(100);
    server
}

/// A connection that breaks if nothing has come or gone for a while, though somebody waits for it: for a client that has stopped in the
/// middle of a body, or that does not read. A shorter while until it has said in which protocol it speaks: hyper counts only from then.
struct Lively {
    stream: TcpStream,
    patience: Duration,
    /// The last time at which anything came or went.
    moved: Instant,
    /// How many bytes are to come until it is clear which protocol this is, and until when.
    unclear: Option<(usize, Instant)>,
    deadline: Pin<Box<Sleep>>,
}

impl Lively {
    fn new(stream: TcpStream, manners: Manners) -> Self {
        const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
        // What is small is not to wait for what comes behind it; where that cannot be had, it does.
        let _ = stream.set_nodelay(true);
        let now = Instant::now();
        let soon = now + manners.header_timeout;
        Self {
            stream,
            patience: manners.idle_timeout,
            moved: now,
            unclear: Some((PREFACE, soon)),
            deadline: Box::pin(sleep_until(soon)),
        }
    }

    /// Whether it has kept silent for too long.
    fn is_dead(&mut self, cx: &mut Context<'_>) -> bool {
        while self.deadline.as_mut().poll(cx).is_ready() {
            let until = match self.unclear {
                Some((_, until)) => until,
                None => self.moved + self.patience,
            };
            if until <= Instant::now() {
                return true;
            }
            self.deadline.as_mut().reset(until);
        }
        false
    }

    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.unclear = None;
            self.moved = Instant::now();
        } else if self.is_dead(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }
}

impl AsyncRead for Lively {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            let new = buf.filled().len() - before;
            let unclear = self.unclear.take();
            self.unclear = unclear.and_then(|(left, until)| Some((left.checked_sub(new)?, until)));
            self.moved = Instant::now();
        } else if self.is_dead(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Lively {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
