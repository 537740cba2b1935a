//! Access loggers → [`crate::telemetry::access_log`].

use std::sync::Arc;

use mesh_proto::xds::{accesslog, core, file_access_log, stream_access_log, wkt};

use super::{At, Context, Decoded, Refusal, each, unpack};
use crate::telemetry::access_log::{AccessLog, Format, Operator, parse};

/// Envoy's own default format.
const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// All logs of a listener or chain.
pub fn all(raw: &[accesslog::AccessLog], context: &Context) -> Decoded<Vec<Arc<AccessLog>>> {
    each("access_log", raw, |one| self::one(one, context).map(Arc::new))
}

fn one(raw: &accesslog::AccessLog, context: &Context) -> Decoded<AccessLog> {
    use accesslog::access_log::ConfigType;
    if raw.filter.is_some() {
        return Err(Refusal::field("filter", "filters of access logs are not supported"));
    }
    let Some(ConfigType::TypedConfig(any)) = raw.config_type.as_ref() else {
        return Err(Refusal::field("typed_config", "is required"));
    };
    let (path, format, omit_empty) = if any.type_url.ends_with("file.v3.FileAccessLog") {
        let file: file_access_log::FileAccessLog = unpack(any).at("typed_config")?;
        let omit_empty = match file.access_log_format.as_ref() {
            Some(file_access_log::file_access_log::AccessLogFormat::LogFormat(format)) => format.omit_empty_values,
            _ => false,
        };
        (file.path.clone(), file_format(&file).at("typed_config")?, omit_empty)
    } else if any.type_url.ends_with("stream.v3.StdoutAccessLog") {
        let stream: stream_access_log::StdoutAccessLog = unpack(any).at("typed_config")?;
        use stream_access_log::stdout_access_log::AccessLogFormat;
        let (format, omit_empty) = match stream.access_log_format.as_ref() {
            Some(AccessLogFormat::LogFormat(format)) => {
                (substitution(format).at("typed_config.log_format")?, format.omit_empty_values)
            }
            None => (text(DEFAULT)?, false),
        };
        ("/dev/stdout".to_owned(), format, omit_empty)
    } else {
        let message = format!("`{}` is not supported; use FileAccessLog or StdoutAccessLog", any.type_url);
        return Err(Refusal::field("typed_config", message));
    };
    let writer = context
        .logs
        .open(&path)
        .map_err(|error| Refusal::field("typed_config.path", format!("cannot open {path}: {error}")))?;
    Ok(AccessLog::new(format, omit_empty, writer))
}

#[allow(deprecated)]
fn file_format(raw: &file_access_log::FileAccessLog) -> Decoded<Format> {
    use file_access_log::file_access_log::AccessLogFormat as F;
    match raw.access_log_format.as_ref() {
        None => text(DEFAULT),
        Some(F::Format(format)) => text(format).at("format"),
        Some(F::JsonFormat(fields) | F::TypedJsonFormat(fields)) => json(fields).at("json_format"),
        Some(F::LogFormat(format)) => substitution(format).at("log_format"),
    }
}

#[allow(deprecated)]
fn substitution(raw: &core::SubstitutionFormatString) -> Decoded<Format> {
    use core::substitution_format_string::Format as F;
    match raw.format.as_ref() {
        Some(F::TextFormat(format)) => text(format).at("text_format"),
        Some(F::TextFormatSource(source)) => match source.specifier.as_ref() {
            Some(core::data_source::Specifier::InlineString(format)) => {
                text(format).at("text_format_source.inline_string")
            }
            _ => Err(Refusal::field("text_format_source", "only inline_string is supported")),
        },
        Some(F::JsonFormat(fields)) => json(fields).at("json_format"),
        None => Err(Refusal::new("needs one of text_format_source, json_format")),
    }
}

fn text(format: &str) -> Decoded<Format> {
    parse(format).map(Format::Text).map_err(Refusal::new)
}

fn json(fields: &wkt::Struct) -> Decoded<Format> {
    let mut keys: Vec<_> = fields.fields.iter().collect();
    keys.sort_by_key(|(key, _)| key.as_str());
    let compiled = keys.into_iter().map(|(key, value)| -> Decoded<(String, Vec<Operator>)> {
        let Some(wkt::value::Kind::StringValue(format)) = value.kind.as_ref() else {
            return Err(Refusal::field(key.as_str(), "must be a string"));
        };
        Ok((key.clone(), parse(format).map_err(|error| Refusal::field(key.as_str(), error))?))
    });
    Ok(Format::Json(compiled.collect::<Decoded<_>>()?))
}
