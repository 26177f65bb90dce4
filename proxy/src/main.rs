//! A caching reverse proxy: it stands before a slow HTTP service, and asks it once for what many want.
//!
//! `cargo run -p tower-response-cache-proxy -- --origin demo --admin 127.0.0.1:3001 --admin-token secret`, and in
//! another terminal (the demo takes 200 ms for each answer; your own is `--origin http://127.0.0.1:8080`):
//!
//! ```text
//! $ curl -i localhost:3000/products/7
//! cache-status: tower-response-cache; fwd=uri-miss; stored
//! GET /products/7, made by call 1
//! $ curl -i localhost:3000/products/7                     # at once
//! cache-status: tower-response-cache; hit; ttl=59
//! GET /products/7, made by call 1
//! $ export BEARER='Authorization: Bearer secret'
//! $ curl -H "$BEARER" -X POST 'localhost:3001/purge/tags?tag=products/7'      # as its Surrogate-Key says
//! $ curl -H "$BEARER" -X POST 'localhost:3001/purge/url?url=http://localhost:3000/products/7'
//! $ curl -H "$BEARER" -X POST 'localhost:3001/purge/all?soft'                 # stale from now on, instead of gone
//! $ curl -H "$BEARER" localhost:3001/stats
//! $ curl -H "$BEARER" 'localhost:3001/explain?url=http://localhost:3000/products/7'
//! layer pages: asks the inner service (stale)
//! ```
//!
//! Before Elasticsearch or OpenSearch, `--search-paths --ttl 30`: searches are cached by their body, in whichever order its members
//! stand, and a write to an index purges the searches that show it.
//!
//! Who decides what is stored? With `--mode rfc9111` (the default) the origin, by `Cache-Control`. With `--mode policy` the options:
//! all that is no cookie's, nobody's secret and of status 200, for `--ttl`.
//!
//! * [`proxy`]: what is taken from clients, and what they get when there is no answer.
//! * [`upstream`]: the origin as a Tower service, which the cache stands before.
//! * [`resend`]: bodies of requests, which may be sent twice.
//! * [`search`]: searches in the cache, and what a write purges.
//! * [`admin`]: purges, figures, explanations, on an address of their own.
//! * [`server`]: connections, and how long they may be silent.
//! * [`fields`]: header fields of one hop. [`options`]: the command line and the configuration file. [`args`]: the settings they make. [`demo`]: an origin to try it with.

mod admin;
mod answers;
mod args;
mod demo;
mod failures;
mod fields;
mod forwarded;
mod options;
mod proxy;
mod resend;
mod search;
mod server;
mod upstream;

use std::io;

use clap::{CommandFactory, Error, error::ErrorKind};
use tokio::{net::TcpListener, signal, sync::watch, task::JoinSet, time::Instant};
use tower_response_cache::CacheHandle;

use admin::Administration;
use args::{Args, Limits, Origin};
use options::Options;
use proxy::Proxy;
use server::{BoxError, Manners, PATIENCE, note, serve};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args = Args::read().unwrap_or_else(|error| error.exit());
    let (stop, stopped) = watch::channel(false);
    let manners = manners(args.limits);
    let origin = match args.origin {
        Origin::At(origin) => origin,
        Origin::Demo => demo::start(manners, stopped.clone()).await?,
    };
    let handle = CacheHandle::builder()
        .max_bytes(args.caching.max_bytes)
        .max_marks(args.caching.max_marks)
        .build();
    let proxy = Proxy::new(origin, &handle, &args.caching, args.limits, args.trusted)?;
    let mut servers = JoinSet::new();
    if let Some(admin) = args.admin {
        let listener = bind("--admin", &admin.listen)
            .await
            .unwrap_or_else(|error| error.exit());
        println!("administration on http://{}", listener.local_addr()?);
        let admin = Administration::new(&handle, &admin.token);
        let manners = Manners {
            connections: 32,
            ..manners
        };
        let answer = move |request, from| {
            let admin = admin.clone();
            async move { admin.answer(request, from).await }
        };
        servers.spawn(serve(listener, manners, stopped.clone(), answer));
    }
    let listener = bind("--listen", &args.listen)
        .await
        .unwrap_or_else(|error| error.exit());
    let mut signals = Signals::new()?;
    println!("listening on http://{}", listener.local_addr()?);
    let answer = move |request, client| {
        let proxy = proxy.clone();
        async move { proxy.answer(request, client).await }
    };
    servers.spawn(serve(listener, manners, stopped, answer));

    signals.next().await;
    stop.send_replace(true);
    let deadline = Instant::now() + PATIENCE;
    let stopped = async {
        while servers.join_next().await.is_some() {}
        handle
            .shutdown(deadline.saturating_duration_since(Instant::now()))
            .await
    };
    tokio::select! {
        end = stopped => if end.still_running > 0 {
            note(format_args!(
                "{} requests to the origin were cut off",
                end.still_running
            ));
        },
        () = signals.next() => note(format_args!("stopped at once by a second signal")),
    }
    Ok(())
}

/// The error names the option and its address.
async fn bind(option: &str, address: &str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|error| {
        let reason = match error.raw_os_error() {
            Some(_) => error.kind().to_string(),
            None => error.to_string(),
        };
        Options::command().error(ErrorKind::Io, format_args!("{option} {address}: {reason}"))
    })
}

/// A connection is given up when nothing could have moved on it but for somebody who is silent: while a request waits for another's
/// answer, and then for its own, it is the origin who is.
fn manners(limits: Limits) -> Manners {
    Manners {
        connections: limits.connections,
        header_timeout: limits.header_timeout,
        idle_timeout: limits.idle_timeout + 2 * limits.origin_timeout,
    }
}

/// The signals that end the process: SIGINT (Ctrl-C) and SIGTERM (of a process manager).
struct Signals {
    #[cfg(unix)]
    terminate: signal::unix::Signal,
    #[cfg(unix)]
    interrupt: signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        #[cfg(unix)]
        use signal::unix::{SignalKind, signal};
        Ok(Self {
            #[cfg(unix)]
            terminate: signal(SignalKind::terminate())?,
            #[cfg(unix)]
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it loses none.
    async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        if signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
