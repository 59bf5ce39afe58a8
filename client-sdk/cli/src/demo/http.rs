//! Just enough HTTP/1.1 to ask the admin listener three things.
//!
//! One request per connection; an answer longer than [`ANSWER_BYTES_MAX`] or without a status line is refused.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::failure::Failure;

const ANSWER_BYTES_MAX: u64 = 64 << 10;
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Asks `address` for `path`.
pub(super) async fn get(address: &str, path: &str) -> Result<Answer, Failure> {
    request(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"), &[])
        .await
}

/// Sends `body` to `path` at `address`.
pub(super) async fn post(address: &str, path: &str, body: &[u8]) -> Result<Answer, Failure> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    request(address, &head, body).await
}

/// Has `path` removed at `address`.
pub(super) async fn delete(address: &str, path: &str) -> Result<Answer, Failure> {
    let head = format!("DELETE {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    request(address, &head, &[]).await
}

async fn request(address: &str, head: &str, body: &[u8]) -> Result<Answer, Failure> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let failed = |text: String| Failure::new(format!("admin listener {address}: {text}"));
    let answer = timeout(LIMIT, exchange).await.map_err(|_| failed("no answer in time".to_owned()))?;
    let answer = answer.map_err(|error| failed(error.to_string()))?;
    parse(&answer).ok_or_else(|| failed("the answer is not HTTP".to_owned()))
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = answer.split_at_checked(end)?;
    let head = std::str::from_utf8(head).ok()?;
    let mut words = head.lines().next()?.split(' ');
    let status = match words.next()? {
        "HTTP/1.1" | "HTTP/1.0" => words.next()?.parse().ok()?,
        _ => return None,
    };
    let body = body.get(4..)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let body = match length {
        Some(length) => body.get(..length)?,
        None => body,
    };
    Some(Answer { status, body: body.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_as_much_body_as_it_announces() {
        let answer = |status, body: &[u8]| Some(Answer { status, body: body.to_vec() });
        let rows = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nVM", answer(200, b"VM")),
            ("HTTP/1.1 403 Forbidden\r\n\r\n{}", answer(403, b"{}")),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nVM", None),
            ("HTTP/1.1 200 OK\r\n", None),
            ("SSH-2.0-OpenSSH\r\n\r\n", None),
            ("HTTP/1.1 many\r\n\r\n", None),
        ];
        for (bytes, expected) in rows {
            assert_eq!(parse(bytes.as_bytes()), expected, "{bytes}");
        }
    }
}
