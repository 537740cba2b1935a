//! `redirect` and `directResponse`: answers that need no upstream (VA2, VA3).

use mesh_proto::crd::virtual_service::{HttpBody, HttpDirectResponse, HttpRedirect, RedirectPortSelection};
use mesh_proto::xds::{core, route};

use super::{MAX_DIRECT_RESPONSE, Site};

/// A redirect; `None` if its status is none of a redirect.
pub fn redirect(site: &Site<'_>, redirect: &HttpRedirect) -> Option<route::RedirectAction> {
    use route::redirect_action::{PathRewriteSpecifier as Path, RedirectResponseCode as Code, SchemeRewriteSpecifier};
    let code = match redirect.redirect_code {
        0 | 301 => Code::MovedPermanently,
        302 => Code::Found,
        303 => Code::SeeOther,
        307 => Code::TemporaryRedirect,
        308 => Code::PermanentRedirect,
        _ => return None,
    };
    let text = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let path = text(&redirect.uri).map(Path::PathRedirect);
    let scheme = text(&redirect.scheme);
    Some(route::RedirectAction {
        host_redirect: redirect.authority.clone().unwrap_or_default(),
        port_redirect: port(site, redirect, scheme.as_deref()).min(u16::MAX.into()),
        path_rewrite_specifier: path.or_else(|| text(&redirect.prefix_rewrite).map(Path::PrefixRewrite)),
        scheme_rewrite_specifier: scheme.map(SchemeRewriteSpecifier::SchemeRedirect),
        response_code: code.into(),
        ..Default::default()
    })
}

/// The port to name in the location; 0 for none. A scheme's default port is not written.
fn port(site: &Site<'_>, redirect: &HttpRedirect, scheme: Option<&str>) -> u32 {
    let port = match (redirect.port, redirect.derive_port) {
        (Some(port), _) if port != 0 => port,
        // Routes are made for one port, so the request's is known.
        (_, Some(RedirectPortSelection::FromRequestPort)) => u32::from(site.port),
        _ => 0,
    };
    let scheme = scheme.unwrap_or(if site.tls { "https" } else { "http" });
    match (port, scheme) {
        (80, "http") | (443, "https") => 0,
        (port, _) => port,
    }
}

/// A fixed response; `None` if its status is none that HTTP knows, or its body is too long.
pub fn direct(response: &HttpDirectResponse) -> Option<route::DirectResponseAction> {
    use core::data_source::Specifier;
    let too_long = |body: &HttpBody| {
        let length = body.string.as_ref().map(String::len).or(body.bytes.as_ref().map(Vec::len));
        length.is_some_and(|length| length > MAX_DIRECT_RESPONSE as usize)
    };
    if !(200..600).contains(&response.status) || response.body.as_ref().is_some_and(too_long) {
        return None;
    }
    let body = response.body.as_ref().and_then(|body| match (&body.string, &body.bytes) {
        (Some(text), _) => Some(Specifier::InlineString(text.clone())),
        (None, Some(bytes)) => Some(Specifier::InlineBytes(bytes.clone())),
        (None, None) => None,
    });
    Some(route::DirectResponseAction {
        status: response.status,
        body: body.map(|specifier| core::DataSource { specifier: Some(specifier), ..Default::default() }),
        ..Default::default()
    })
}
