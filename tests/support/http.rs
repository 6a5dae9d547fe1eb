//! The least HTTP client that the tests need: one request per connection, whole bodies, numeric loopback addresses. Its
//! own code on purpose: the engine is then checked by something that shares no library with it.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// How long one request may take.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as text; empty for a picture.
    pub body: String,
}

impl Answer {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; panics if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{} is not JSON ({e}): {}", self.status, self.body))
    }
}

/// `GET http://127.0.0.1:<port><path>`
pub fn get(port: u16, path: &str) -> io::Result<Answer> {
    request(port, "GET", path, &[], b"")
}

/// `POST`, with a content type.
pub fn post(port: u16, path: &str, content_type: &str, body: &[u8]) -> io::Result<Answer> {
    request(port, "POST", path, &[("content-type", content_type)], body)
}

/// A text as part of a path, a query or a form.
pub fn percent_encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// Any request.
pub fn request(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
    request_within(REQUEST_MAX, port, method, path, headers, body)
}

/// Any request, by somebody who waits no longer than `patience` for the server to go on.
pub fn request_within(
    patience: Duration,
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes())?;
    // A server may refuse a large body and close before it has read it all: its answer is what counts.
    let sent = stream.write_all(body);
    read_answer(BufReader::new(stream)).or_else(|unread| sent.and(Err(unread)))
}

fn read_answer(mut stream: BufReader<TcpStream>) -> io::Result<Answer> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| bad("no status line"))?;
    let (mut length, mut chunked, mut headers) = (None, false, Vec::new());
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(bad("the head does not end"));
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let (name, value) = (name.to_ascii_lowercase(), value.trim());
        match name.as_str() {
            "content-length" => length = value.parse::<u64>().ok(),
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            _ => {}
        }
        headers.push((name, value.to_owned()));
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(|_| bad("no chunk size"))?;
            if (&mut stream).take(size).read_to_end(&mut body)? as u64 != size {
                return Err(bad("the body is cut"));
            }
            if size == 0 {
                break;
            }
            line.clear();
            stream.read_line(&mut line)?;
        }
    } else {
        stream.take(length.unwrap_or(u64::MAX)).read_to_end(&mut body)?;
        if length.is_some_and(|length| body.len() as u64 != length) {
            return Err(bad("the body is cut"));
        }
    }
    if headers.iter().any(|(name, value)| name == "content-type" && value.starts_with("image/")) {
        body.clear();
    }
    Ok(Answer { status, headers, body: String::from_utf8(body).map_err(|_| bad("the body is not UTF-8"))? })
}
