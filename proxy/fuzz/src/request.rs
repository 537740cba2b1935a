//! A whole proxy between a client that sends anything and an application. An input is what the client sends before it ends its side.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_proxy::app::{Options, Proxy};
use mesh_proxy::bootstrap::Bootstrap;

/// Far above what any answer may take; the time-outs of the bootstrap end what an application would wait for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for an answer that comes.
const LISTENS: Duration = Duration::from_millis(5);
/// What the proxy adds to every request: one without it was smuggled past the proxy.
const MARK: &str = "x-passed";

/// Nothing in the proxy panics, every client gets an answer of HTTP or an end, the application is sent well-formed requests only, each of
/// them seen by the proxy, and none of what the policy forbids.
pub fn request(data: &[u8]) {
    static PLACE: OnceLock<Place> = OnceLock::new();
    let place = PLACE.get_or_init(Place::start);
    let answer = exchange(place.address, data);
    if let Some(broken) = place.broken.lock().unwrap_or_else(|error| error.into_inner()).take() {
        panic!("{broken}");
    }
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "a thread of the proxy panicked");
    if !answer.is_empty() && !data.starts_with(b"PRI * HTTP/2.0") {
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let parsed = httparse::Response::new(&mut headers).parse(&answer);
        assert!(parsed.is_ok(), "the answer is no HTTP: {:?}", String::from_utf8_lossy(&answer));
    }
}

fn exchange(address: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("the proxy is gone: {error}"));
    let mut answer = Vec::new();
    match talk(&mut stream, data, &mut answer) {
        Err(error) if !is_end(&error) => panic!("no answer and no end: {error}"),
        _ => answer,
    }
}

/// A client that ends its side has gone, and its request with it: so it listens first.
fn talk(stream: &mut TcpStream, data: &[u8], answer: &mut Vec<u8>) -> io::Result<()> {
    // What was refused before all of it was read may have an answer all the same.
    let _ = stream.write_all(data);
    stream.set_read_timeout(Some(LISTENS))?;
    match stream.read_to_end(answer) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        other => return other.map(|_| ()),
    }
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_to_end(answer).map(|_| ())
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected)
}

/// Threads of the proxy, and that of the application.
const OURS: [&str; 4] = ["worker-", "control", "access-log", "place"];
static PANICS: AtomicUsize = AtomicUsize::new(0);

struct Place {
    address: SocketAddr,
    broken: &'static Mutex<Option<String>>,
}

impl Place {
    fn start() -> Self {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // One of a target is reported by whoever runs it.
            let thread = std::thread::current();
            if thread.name().is_some_and(|name| OURS.iter().any(|ours| name.starts_with(ours))) {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            previous(info);
        }));
        let broken: &'static Mutex<Option<String>> = Box::leak(Box::default());
        let (tell, told) = mpsc::channel();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap_or_else(|error| panic!("runtime: {error}"));
            runtime.block_on(async move {
                let (application, address) = application(broken).await.unwrap_or_else(|error| panic!("{error}"));
                let bootstrap = Bootstrap::from_yaml(&bootstrap(address)).unwrap_or_else(|error| panic!("{error}"));
                let proxy = Proxy::start(bootstrap, Options { workers: 1 }).await;
                let proxy = proxy.unwrap_or_else(|error| panic!("{error}"));
                proxy.ready().await;
                let _ = tell.send(proxy.listener_addr("front").unwrap_or_else(|| panic!("no listener")));
                application.await;
            });
        };
        let thread = std::thread::Builder::new().name("place".to_owned()).spawn(serve);
        drop(thread.unwrap_or_else(|error| panic!("{error}")));
        let address = told.recv().unwrap_or_else(|_| panic!("the proxy did not start"));
        Self { address, broken }
    }
}

type Broken = &'static Mutex<Option<String>>;

async fn application(broken: Broken) -> io::Result<(impl Future<Output = ()>, SocketAddr)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let report = move |what: String| *broken.lock().unwrap_or_else(|error| error.into_inner()) = Some(what);
    let serving = async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(request, report));
                let served =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                // A proxy may cut a request short, but not write one that is malformed.
                if let Err(error) = served
                    && error.is_parse()
                {
                    report(format!("the application was sent no HTTP: {error}"));
                }
            });
        }
    };
    Ok((serving, address))
}

async fn answer(request: Request<Incoming>, report: impl Fn(String)) -> Result<Response<Full<Bytes>>, Infallible> {
    let head = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
    let marks: Vec<_> = request.headers().get_all(MARK).iter().collect();
    if marks != ["1"] {
        report(format!("a request went past the proxy: {head}"));
    }
    if request.uri().path().starts_with("/secret") {
        report(format!("the policy was gone around: {head}"));
    }
    // A body that is cut short ends the connection; there is nobody to answer.
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    Ok(Response::new(Full::new(body)))
}

/// A listener with as much of what looks at requests as there is: normalisation, policy, routes of all kinds, metrics, a log.
fn bootstrap(application: SocketAddr) -> String {
    include_str!("request.yaml").replace("${PORT}", &application.port().to_string())
}
