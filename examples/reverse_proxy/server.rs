//! Connections: how many there may be, and how long each may keep silent.

use std::{
    convert::Infallible,
    io,
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

/// For how long those who are being answered are waited for at the end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What any head may take, of a request.
const HEAD_BYTES: u32 = 64 << 10;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

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
                eprintln!("cannot accept: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answer = answer(request, client);
            async { Ok::<_, Infallible>(answer.await) }
        });
        let stream = TokioIo::new(Lively::new(stream, manners.idle_timeout));
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
        eprintln!("some clients were not done after {PATIENCE:?}");
    }
}

fn server(manners: Manners) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(manners.header_timeout)
        .max_buf_size(HEAD_BYTES as usize)
        // Who has said all there is to say may still listen.
        .half_close(true);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES)
        .max_concurrent_streams(100);
    server
}

/// A connection that breaks if nothing has come or gone for a while, though somebody waits for it: for a client that has not
/// said in which protocol it speaks, that has stopped in the middle of a body, or that does not read.
struct Lively {
    stream: TcpStream,
    patience: Duration,
    moved: Instant,
    deadline: Pin<Box<Sleep>>,
}

impl Lively {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        // What is small is not to wait for what comes behind it; where that cannot be had, it does.
        let _ = stream.set_nodelay(true);
        let moved = Instant::now();
        Self {
            stream,
            patience,
            moved,
            deadline: Box::pin(sleep_until(moved + patience)),
        }
    }

    fn look<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.moved = Instant::now();
            return poll;
        }
        while self.deadline.as_mut().poll(cx).is_ready() {
            let until = self.moved + self.patience;
            if until <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.deadline.as_mut().reset(until);
        }
        Poll::Pending
    }
}

impl AsyncRead for Lively {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.look(cx, poll)
    }
}

impl AsyncWrite for Lively {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, data);
        self.look(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.look(cx, poll)
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
