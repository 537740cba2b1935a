//! Answers that are ours: errors, redirects, fixed responses; in the form that the client understands, gRPC's or HTTP's.
//!
//! Used by `handle` and `forward`.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue, LOCATION};
use http::{Response, StatusCode, Version};

use super::body::ResponseBody;
use super::error::Error;
use super::handle::Finish;
use super::names;
use crate::telemetry::record::Flags;

/// Answers with an error of ours.
pub(super) fn local(error: Error, finish: Finish, grpc: bool) -> Response<ResponseBody> {
    local_as(error, None, finish, grpc)
}

/// As [`local`], with another status than the error's own.
pub(super) fn local_as(
    error: Error,
    status: Option<StatusCode>,
    mut finish: Finish,
    grpc: bool,
) -> Response<ResponseBody> {
    finish.record.fail(&error);
    let overloaded = finish.record.flags.has(Flags::UO) && matches!(error, Error::Overflow { .. });
    let unread = matches!(
        error,
        Error::RequestTimeout | Error::StreamIdle { receiving: true } | Error::BadRequest(_) | Error::HeadTooLarge
    );
    let http1 = finish.record.protocol.is_some_and(|version| version < Version::HTTP_2);
    let body = match error.body(finish.record.attempts > 1) {
        Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
        Cow::Owned(text) => text.into(),
    };
    let code = matches!(error, Error::StreamDuration).then_some(DEADLINE_EXCEEDED);
    let mut response = reply(status.unwrap_or(error.status()), body, finish, grpc.then_some(code));
    if overloaded {
        response.headers_mut().insert(names::OVERLOADED, HeaderValue::from_static("true"));
    }
    if unread && http1 {
        // The rest of the request may come at any time, and would be taken for another.
        response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

const DEADLINE_EXCEEDED: u32 = 4;

/// A response of ours. gRPC clients (`Some`, with a status if the HTTP status would not do) get it in the form that they understand.
pub(super) fn reply(
    status: StatusCode,
    body: Bytes,
    mut finish: Finish,
    grpc: Option<Option<u32>>,
) -> Response<ResponseBody> {
    if let Some(code) = grpc {
        let code = code.unwrap_or_else(|| grpc_code(status));
        finish.record.grpc_status = Some(code);
        finish.record.status = 200;
        let mut response = Response::new(ResponseBody::full(Bytes::new(), Some(finish)));
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(code));
        if !body.is_empty() {
            let message = percent_encoding::percent_encode(&body, GRPC_MESSAGE).to_string();
            if let Ok(message) = HeaderValue::try_from(message) {
                headers.insert("grpc-message", message);
            }
        }
        return response;
    }
    finish.record.status = status.as_u16();
    let length = body.len();
    let head = finish.bodiless;
    let mut response = Response::new(ResponseBody::full(if head { Bytes::new() } else { body }, Some(finish)));
    *response.status_mut() = status;
    if length > 0 {
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if head {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
    }
    response
}

/// What `grpc-message` may not hold as it is: all but printable ASCII, and `%`.
const GRPC_MESSAGE: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');

/// HTTP status → gRPC status, as gRPC's specification maps it.
fn grpc_code(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

pub(super) fn redirect(status: StatusCode, location: &str, mut finish: Finish, grpc: bool) -> Response<ResponseBody> {
    finish.record.details = Some("direct_response".into());
    let mut response = reply(status, Bytes::new(), finish, grpc.then_some(None));
    locate(&mut response, location);
    response
}

pub(super) fn locate(response: &mut Response<ResponseBody>, location: &str) {
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
}
