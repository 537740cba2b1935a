//! What a backend is told by the request's `x-do` header: `TRY | TRY | …`, the last for all later tries; a try is `STEP; STEP; …`.
//!
//! | step | the backend |
//! |---|---|
//! | `status 503` | answers with this status |
//! | `delay 100` | waits milliseconds before the head |
//! | `delay-body 100` | waits between head and body |
//! | `header name=value` | adds a header |
//! | `trailer name=value` | adds a trailer (and chunks, in HTTP/1) |
//! | `info 103` | sends this interim response first |
//! | `body text`, `bytes 1000` | sends this body |
//! | `chunked`, `until-close`, `empty` | frames the body so (HTTP/1) |
//! | `large 70000`, `many 200` | sends a header of so many bytes, so many headers |
//! | `connection-close` | says that it closes, and closes |
//! | `early` | answers before it has read the body |
//! | `hang` | never answers |
//! | `close`, `reset` | ends the connection before the head |
//! | `close-body`, `reset-body` | ends it after half the body |
//! | `rst 7` | resets the HTTP/2 stream with this code before the head |
//! | `raw text` | writes this (with `\r`, `\n`) and closes (HTTP/1) |
//! | `grpc 14` | answers trailers-only with this `grpc-status` |
//! | `on b` | the rest of this try is for backend `b` only; another answers as usual |

/// How a try is answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Script {
    /// Status, 200 if none is named.
    pub status: Option<u16>,
    /// Milliseconds before the head.
    pub delay: u64,
    /// Milliseconds before the body.
    pub delay_body: u64,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
    /// Interim responses.
    pub interim: Vec<u16>,
    /// Body.
    pub body: Option<Vec<u8>>,
    /// Framing of HTTP/1.
    pub framing: Framing,
    /// Says `connection: close`.
    pub close: bool,
    /// Does not wait for the request's body.
    pub early: bool,
    /// How it ends.
    pub end: End,
}

/// Framing of a body in HTTP/1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Framing {
    /// `content-length`.
    #[default]
    Length,
    /// Chunks.
    Chunked,
    /// The end of the connection.
    UntilClose,
}

/// How a try ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum End {
    /// With a whole answer.
    #[default]
    Answer,
    /// Never.
    Hang,
    /// FIN before the head.
    Close,
    /// RST before the head.
    Reset,
    /// FIN after half the body.
    CloseBody,
    /// RST after half the body.
    ResetBody,
    /// RST_STREAM of HTTP/2.
    Stream(u32),
    /// These bytes.
    Raw(Vec<u8>),
}

impl Script {
    /// Reads the header for try `number` (from 1) at backend `backend`.
    pub fn parse(text: &str, number: usize, backend: &str) -> Self {
        let tries: Vec<&str> = text.split('|').collect();
        let own = tries.get(number - 1).or(tries.last()).copied().unwrap_or("");
        let mut script = Self::default();
        for step in own.split(';').map(str::trim).filter(|step| !step.is_empty()) {
            let (word, rest) = step.split_once(' ').unwrap_or((step, ""));
            let pair = || {
                let (name, value) = rest.split_once('=').unwrap_or((rest, ""));
                (name.to_owned(), value.to_owned())
            };
            let number = || rest.parse::<u64>().unwrap_or_else(|_| panic!("`{step}` needs a number"));
            match word {
                "on" if rest != backend => return script,
                "on" => {}
                "status" => script.status = Some(number() as u16),
                "delay" => script.delay = number(),
                "delay-body" => script.delay_body = number(),
                "header" => script.headers.push(pair()),
                "trailer" => {
                    script.trailers.push(pair());
                    script.framing = Framing::Chunked;
                }
                "info" => script.interim.push(number() as u16),
                "body" => script.body = Some(rest.as_bytes().to_vec()),
                "bytes" => script.body = Some(vec![b'y'; number() as usize]),
                "empty" => script.body = Some(Vec::new()),
                "chunked" => script.framing = Framing::Chunked,
                "until-close" => script.framing = Framing::UntilClose,
                "large" => script.headers.push(("x-large".into(), "l".repeat(number() as usize))),
                "many" => script.headers.extend((0..number()).map(|index| (format!("x-many-{index}"), "m".into()))),
                "connection-close" => script.close = true,
                "early" => script.early = true,
                "hang" => script.end = End::Hang,
                "close" => script.end = End::Close,
                "reset" => script.end = End::Reset,
                "close-body" => script.end = End::CloseBody,
                "reset-body" => script.end = End::ResetBody,
                "rst" => script.end = End::Stream(number() as u32),
                "raw" => script.end = End::Raw(rest.replace("\\r", "\r").replace("\\n", "\n").into_bytes()),
                "grpc" => {
                    script.headers.push(("content-type".into(), "application/grpc".into()));
                    script.headers.push(("grpc-status".into(), rest.into()));
                    script.body = Some(Vec::new());
                }
                _ => panic!("the backend knows no `{step}`"),
            }
        }
        script
    }
}
