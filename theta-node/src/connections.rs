//! Listens for HTTP within limits. A connection has to send the head of its next request in time, and where a new one finds
//! no place, the one that has asked for nothing for longest gives up its own: whoever only holds connections keeps nobody
//! out.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::{Body, HttpBody as _},
    http::Request,
};
use futures::StreamExt as _;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinHandle,
};

/// What a listener grants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) connections: usize,
    /// How long the head of a request may take, from the connection or the answer before.
    pub(crate) head: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 2_048, head: Duration::from_secs(30) }
    }
}

/// How long to wait where the system gives no connection.
const PAUSE: Duration = Duration::from_millis(50);

/// The connections of a listener.
#[derive(Debug, Default)]
struct Places {
    taken: usize,
    turns: u64,
    /// Those that ask for nothing, the one that has done so for longest first.
    idle: BTreeMap<u64, Arc<Notify>>,
}

/// One connection's place.
#[derive(Debug)]
struct Place {
    places: Arc<Mutex<Places>>,
    /// Its key among the idle, of which each is given once.
    turn: AtomicU64,
    leave: Arc<Notify>,
}

impl Place {
    /// A place, if need be that of an idle one; none where all are at work.
    fn take(places: &Arc<Mutex<Places>>, most: usize) -> Option<Arc<Self>> {
        let mut all = places.lock();
        if all.taken >= most {
            all.idle.pop_first()?.1.notify_one();
        }
        all.taken += 1;
        drop(all);
        let place = Self { places: places.clone(), turn: AtomicU64::new(0), leave: Arc::default() };
        place.rest();
        Some(Arc::new(place))
    }

    fn rest(&self) {
        let mut all = self.places.lock();
        all.turns += 1;
        let turn = all.turns;
        all.idle.insert(turn, self.leave.clone());
        self.turn.store(turn, Ordering::Relaxed);
    }

    /// Works until what is given back is dropped.
    fn work(self: &Arc<Self>) -> Busy {
        self.places.lock().idle.remove(&self.turn.load(Ordering::Relaxed));
        Busy(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.places.lock();
        all.taken -= 1;
        all.idle.remove(&self.turn.load(Ordering::Relaxed));
    }
}

struct Busy(Arc<Place>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.rest();
    }
}

/// A body that is made while it is sent keeps its connection at work; another one is on its way already.
fn held(body: Body, busy: Busy) -> Body {
    if body.size_hint().exact().is_some() {
        return body;
    }
    Body::from_stream(body.into_data_stream().map(move |piece| {
        let _ = &busy;
        piece
    }))
}

async fn serve(
    stream: TcpStream,
    routes: Router,
    place: Arc<Place>,
    head: Duration,
    mut open: watch::Receiver<()>,
) {
    // Answers are small and waited for.
    let _ = stream.set_nodelay(true);
    let leave = place.leave.clone();
    let routes = TowerToHyperService::new(routes);
    let answer = service_fn(move |request: Request<Incoming>| {
        let busy = place.work();
        let response = routes.call(request.map(Body::new));
        async move { Ok::<_, Infallible>(response.await?.map(|body| held(body, busy))) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let mut closing = false;
    loop {
        tokio::select! {
            // A peer that breaks off or writes no HTTP is nobody's fault here.
            _ = connection.as_mut() => return,
            () = leave.notified() => return,
            _ = open.changed(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// A listener that serves until it is dropped; what it has begun to answer by then it answers.
#[derive(Debug)]
pub struct Listener {
    /// Where it listens; a port of 0 has been replaced by the one taken.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on the loopback address.
pub async fn listen(port: u16, routes: Router) -> Result<Listener> {
    listen_on(SocketAddr::from(([127, 0, 0, 1], port)), routes).await
}

/// Listens on any address.
pub async fn listen_on(wanted: SocketAddr, routes: Router) -> Result<Listener> {
    listen_within(Limits::default(), wanted, routes).await
}

pub(crate) async fn listen_within(limits: Limits, wanted: SocketAddr, routes: Router) -> Result<Listener> {
    let listener = TcpListener::bind(wanted)
        .await
        .with_context(|| format!("cannot listen on {wanted}; name another port, or 0 for a free one"))?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        let places = Arc::default();
        // Dropped with this task.
        let (_open, opened) = watch::channel(());
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if let Some(place) = Place::take(&places, limits.connections) {
                        tokio::spawn(serve(stream, routes.clone(), place, limits.head, opened.clone()));
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection was not accepted");
                    if let Some((_, leave)) = places.lock().idle.pop_first() {
                        leave.notify_one();
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    });
    Ok(Listener { address, task })
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    async fn listener(head: Duration) -> Listener {
        let endless = || async {
            let pieces = futures::stream::unfold((), async |()| {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Ok::<_, Infallible>("a piece"), ()))
            });
            Body::from_stream(pieces)
        };
        let routes = Router::new().route("/", get(|| async { "well" })).route("/endless", get(endless));
        let limits = Limits { connections: 8, head };
        listen_within(limits, SocketAddr::from(([127, 0, 0, 1], 0)), routes).await.unwrap()
    }

    async fn ask(stream: &mut TcpStream, path: &str) -> String {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        let mut bytes = vec![0; 1024];
        let count = timeout(LONG, stream.read(&mut bytes)).await.expect("an answer").unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    /// Whether the other side ends it.
    async fn ends(stream: &mut TcpStream) -> bool {
        let mut rest = Vec::new();
        timeout(LONG, stream.read_to_end(&mut rest)).await.is_ok()
    }

    #[tokio::test]
    async fn who_only_holds_connections_keeps_nobody_out() {
        let listener = listener(LONG).await;
        let connect = || TcpStream::connect(listener.address);
        let mut first = connect().await.unwrap();
        assert!(ask(&mut first, "/").await.contains("well"));
        let mut idle = Vec::new();
        for _ in 0..40 {
            idle.push(connect().await.unwrap());
            let mut other = connect().await.unwrap();
            assert!(ask(&mut other, "/").await.contains("well"));
        }
        assert!(ends(&mut first).await, "it asked for nothing for longest");
        for stream in &mut idle[..32] {
            assert!(ends(stream).await);
        }
    }

    #[tokio::test]
    async fn an_answer_under_way_is_not_cut_off() {
        let listener = listener(LONG).await;
        let connect = || TcpStream::connect(listener.address);
        let mut at_work = connect().await.unwrap();
        assert!(ask(&mut at_work, "/endless").await.contains("200 OK"));
        let mut others = Vec::new();
        for _ in 0..40 {
            others.push(connect().await.unwrap());
        }
        assert!(ends(&mut others[0]).await);
        let mut bytes = [0; 64];
        for _ in 0..10 {
            assert!(timeout(LONG, at_work.read(&mut bytes)).await.expect("goes on").unwrap() > 0);
        }
        // All places at work: whoever comes is turned away, and nobody else.
        for _ in 0..7 {
            let mut other = connect().await.unwrap();
            assert!(ask(&mut other, "/endless").await.contains("200 OK"));
            others.push(other);
        }
        assert!(ends(&mut connect().await.unwrap()).await);
        assert!(timeout(LONG, at_work.read(&mut bytes)).await.expect("goes on").unwrap() > 0);
    }

    #[tokio::test]
    async fn a_head_that_comes_byte_by_byte_is_not_waited_for() {
        let listener = listener(Duration::from_millis(300)).await;
        let mut slow = TcpStream::connect(listener.address).await.unwrap();
        let mut silent = TcpStream::connect(listener.address).await.unwrap();
        let write = async {
            while slow.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LONG, write).await.expect("it is cut off");
        assert!(ends(&mut silent).await);
    }

    #[tokio::test]
    async fn a_listener_that_goes_answers_what_it_began() {
        let listener = listener(LONG).await;
        let mut idle = TcpStream::connect(listener.address).await.unwrap();
        assert!(ask(&mut idle, "/").await.contains("well"));
        drop(listener);
        assert!(ends(&mut idle).await);
    }
}
