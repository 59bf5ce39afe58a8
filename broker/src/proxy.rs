//! The PROXY protocol, versions 1 and 2: what a proxy says of the client before the client's own bytes.
//!
//! Only the header is looked at, and nothing of it is kept but an address and what it says of the client's TLS. Whoever may send one is the listener's to decide: a header
//! from anybody else would be a lie. Invariant: a header that is not complete holds at most [`HEADER_BYTES_MAX`] bytes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use veilmq_config::{ProxiedTls, ProxyIdentity, ProxyProtocolConfig};

/// The longest header of version 1, with its end of line (section 2.1).
const LINE_BYTES_MAX: usize = 107;
/// The longest header that is taken: an address and what a proxy has to say of the client's TLS.
const HEADER_BYTES_MAX: usize = 4 * 1024;
/// What version 2 begins with (section 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;

pub(crate) const MALFORMED: &str = "a malformed PROXY header";
pub(crate) const ABSENT: &str = "no PROXY header, and the listener expects one";
pub(crate) const TOO_LONG: &str = "a PROXY header that is too long";
const OTHER_VERSION: &str = "a PROXY header of another version than the listener takes";
pub(crate) const NO_TLS: &str = "the proxy does not say that the client speaks TLS with it";
pub(crate) const NO_CERTIFICATE: &str = "the proxy does not say that the client has a valid certificate";
/// A proxy that speaks for itself asks whether somebody is there, and mostly says nothing.
pub(crate) const SAYS_NOTHING: &str = "a proxy that speaks for itself and says nothing";

/// The field that says what is known of the client's TLS (section 2.2.6).
const TLS_FIELD: u8 = 0x20;
/// The fields within it: the version of TLS, the common name of the client's certificate, and the cipher.
const VERSION_FIELD: u8 = 0x21;
const COMMON_NAME_FIELD: u8 = 0x22;
const CIPHER_FIELD: u8 = 0x23;
/// The longest name of a version or a cipher that is looked at.
const NAME_BYTES_MAX: usize = 64;
/// The room that the address of a Unix socket has, of which there are two.
const UNIX_BYTES: usize = 108;
/// The client speaks TLS.
const SPEAKS_TLS: u8 = 0x01;
/// It has shown a certificate on this connection, or earlier in this session of TLS.
const IS_CERTIFIED: u8 = 0x02 | 0x04;

/// A header that is arriving.
#[derive(Default)]
pub(crate) struct ProxyHeader {
    arrived: Vec<u8>,
}

/// A header that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Proxied {
    /// How many of the bytes that came last belong to it.
    pub(crate) consumed: usize,
    /// Where the client is; None if the proxy speaks for itself or does not know.
    pub(crate) client: Option<ProxiedClient>,
    /// Whether the proxy speaks for itself, as when it asks whether the broker is there.
    pub(crate) is_local: bool,
    version: u8,
    tls: ClientTls,
}

/// Where a client is according to its proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProxiedClient {
    /// At an address of TCP.
    Tcp(SocketAddr),
    /// At a Unix socket with this path.
    Unix(Box<str>),
}

impl fmt::Display for ProxiedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// What a proxy says of the TLS between the client and itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ClientTls {
    is_spoken: bool,
    is_certified: bool,
    common_name: Option<Box<str>>,
    version: Option<Box<str>>,
    cipher: Option<Box<str>>,
}

impl Proxied {
    /// Returns the version of TLS that the client speaks, and its cipher, if the proxy says both.
    pub(crate) fn cipher(&self) -> Option<(&str, &str)> {
        Some((self.tls.version.as_deref()?, self.tls.cipher.as_deref()?))
    }

    /// Returns the user that the client is, if its certificate says so and that counts.
    ///
    /// # Errors
    /// The rule of the listener that the client breaks.
    pub(crate) fn user(&mut self, config: &ProxyProtocolConfig) -> Result<Option<Box<str>>, &'static str> {
        if config.version.is_some_and(|version| version != self.version) {
            return Err(OTHER_VERSION);
        }
        match config.tls {
            ProxiedTls::Any => {}
            ProxiedTls::Required if !self.tls.is_spoken => return Err(NO_TLS),
            ProxiedTls::Certificate if !self.tls.is_certified => return Err(NO_CERTIFICATE),
            ProxiedTls::Required | ProxiedTls::Certificate => {}
        }
        match config.identity {
            ProxyIdentity::None => Ok(None),
            // Without one the client is refused as soon as it says what it wants.
            ProxyIdentity::Cn => Ok(self.tls.common_name.take()),
        }
    }
}

impl ProxyHeader {
    /// Takes in what was read; None if the header is not complete.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<Option<Proxied>, &'static str> {
        let before = self.arrived.len();
        let room = HEADER_BYTES_MAX.saturating_sub(before);
        self.arrived.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        let parsed = parse(&self.arrived)?;
        if parsed.is_none() && self.arrived.len() >= HEADER_BYTES_MAX {
            return Err(TOO_LONG);
        }
        Ok(parsed.map(|parsed| Proxied { consumed: parsed.consumed.saturating_sub(before), ..parsed }))
    }
}

/// Reads a whole header, which counts as consumed.
fn parse(bytes: &[u8]) -> Result<Option<Proxied>, &'static str> {
    if starts_alike(bytes, SIGNATURE) {
        binary(bytes)
    } else if starts_alike(bytes, b"PROXY ") {
        line(bytes)
    } else {
        Err(ABSENT)
    }
}

/// Tells whether one of the two begins the other.
fn starts_alike(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, expected)| byte == expected)
}

/// Version 1: a line of text.
fn line(bytes: &[u8]) -> Result<Option<Proxied>, &'static str> {
    let front = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = front.windows(2).position(|pair| pair == b"\r\n") else {
        return if front.len() == LINE_BYTES_MAX { Err(TOO_LONG) } else { Ok(None) };
    };
    let text = front.get(..end).and_then(|line| str::from_utf8(line).ok()).ok_or(MALFORMED)?;
    let client = match text.split(' ').collect::<Vec<_>>().as_slice() {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let is_v4 = *family == "TCP4";
            address(destination, destination_port, is_v4)?;
            Some(ProxiedClient::Tcp(address(source, source_port, is_v4)?))
        }
        _ => return Err(MALFORMED),
    };
    let tls = ClientTls::default();
    Ok(Some(Proxied { consumed: end + 2, client, is_local: false, version: 1, tls }))
}

fn address(ip: &str, port: &str, is_v4: bool) -> Result<SocketAddr, &'static str> {
    let ip: IpAddr = ip.parse().map_err(|_| MALFORMED)?;
    let is_decimal = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| is_decimal);
    match port {
        Some(port @ 1..) if ip.is_ipv4() == is_v4 => Ok(SocketAddr::new(ip, port)),
        _ => Err(MALFORMED),
    }
}

/// Version 2: a fixed head, addresses, and further fields.
fn binary(bytes: &[u8]) -> Result<Option<Proxied>, &'static str> {
    let Some((head, _)) = bytes.split_first_chunk::<FIXED_BYTES>() else { return Ok(None) };
    let [.., command, family, high, low] = *head;
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > HEADER_BYTES_MAX {
        return Err(TOO_LONG);
    }
    let Some(content) = bytes.get(FIXED_BYTES..length) else { return Ok(None) };
    let is_local = command == 0x20;
    let (client, tls) = match command {
        0x20 => (None, ClientTls::default()),
        0x21 => client(family, content)?,
        _ => return Err(MALFORMED),
    };
    Ok(Some(Proxied { consumed: length, client, is_local, version: 2, tls }))
}

fn client(family: u8, content: &[u8]) -> Result<(Option<ProxiedClient>, ClientTls), &'static str> {
    let at = |ip: IpAddr, high, low| {
        Some(ProxiedClient::Tcp(SocketAddr::new(ip, u16::from_be_bytes([high, low]))))
    };
    let (client, fields) = match family {
        // TCP over IPv4.
        0x11 => {
            let (addresses, fields) = content.split_first_chunk::<12>().ok_or(MALFORMED)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *addresses;
            (at(Ipv4Addr::new(a, b, c, d).into(), high, low), fields)
        }
        // TCP over IPv6.
        0x21 => {
            let (source, rest) = content.split_first_chunk::<16>().ok_or(MALFORMED)?;
            let (_, rest) = rest.split_first_chunk::<16>().ok_or(MALFORMED)?;
            let ([high, low, _, _], fields) = rest.split_first_chunk::<4>().ok_or(MALFORMED)?;
            (at(Ipv6Addr::from(*source).into(), *high, *low), fields)
        }
        // Two Unix sockets; from some proxies only the path of one, which is not padded to its length.
        0x31 => match (content.get(..UNIX_BYTES), content.get(2 * UNIX_BYTES..)) {
            (Some(source), Some(fields)) => (unix_path(source).map(ProxiedClient::Unix), fields),
            (_, _) => (Some(ProxiedClient::Unix(unix_path(content).ok_or(MALFORMED)?)), &[][..]),
        },
        // A client of no known kind may be refused (section 2.2), as Mosquitto does.
        _ => return Err(MALFORMED),
    };
    Ok((client, client_tls(fields)?))
}

/// Returns the path that an address of a Unix socket begins with, if it can be shown.
fn unix_path(address: &[u8]) -> Option<Box<str>> {
    let path = str::from_utf8(address.split(|byte| *byte == 0).next()?).ok()?;
    (!path.is_empty() && !path.contains(char::is_control)).then(|| path.into())
}

fn client_tls(fields: &[u8]) -> Result<ClientTls, &'static str> {
    let mut tls = ClientTls::default();
    for_each_field(fields, |kind, content| {
        if kind == TLS_FIELD {
            tls = tls_field(content)?;
        }
        Ok(())
    })?;
    Ok(tls)
}

fn tls_field(content: &[u8]) -> Result<ClientTls, &'static str> {
    let ([client, verified @ ..], fields) = content.split_first_chunk::<5>().ok_or(MALFORMED)?;
    let (mut common_name, mut version, mut cipher) = (None, None, None);
    for_each_field(fields, |kind, content| {
        match kind {
            VERSION_FIELD => version = name(content),
            CIPHER_FIELD => cipher = name(content),
            COMMON_NAME_FIELD => {
                let name = str::from_utf8(content).map_err(|_| MALFORMED)?;
                // CONNECT could not have such a User Name either.
                let is_one =
                    !name.is_empty() && !name.contains('\0') && content.len() <= usize::from(u16::MAX);
                common_name = is_one.then(|| name.into());
            }
            _ => {}
        }
        Ok(())
    })?;
    let is_certified = client & IS_CERTIFIED != 0 && *verified == [0; 4];
    Ok(ClientTls {
        is_spoken: client & SPEAKS_TLS != 0,
        is_certified,
        common_name: common_name.filter(|_| is_certified),
        version,
        cipher,
    })
}

/// Returns the name of a version or a cipher, if it can be shown.
fn name(content: &[u8]) -> Option<Box<str>> {
    let is_one = (1..=NAME_BYTES_MAX).contains(&content.len()) && content.iter().all(u8::is_ascii_graphic);
    str::from_utf8(content).ok().filter(|_| is_one).map(Into::into)
}

/// Each field has a type, a length and so many bytes.
fn for_each_field(
    mut fields: &[u8],
    mut visit: impl FnMut(u8, &[u8]) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    while !fields.is_empty() {
        let ([kind, high, low], rest) = fields.split_first_chunk::<3>().ok_or(MALFORMED)?;
        let (content, rest) =
            rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low]))).ok_or(MALFORMED)?;
        visit(*kind, content)?;
        fields = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn binary_header(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, content].concat()
    }

    const V4: &[u8] = &[192, 0, 2, 1, 10, 0, 0, 1, 0x30, 0x39, 0x07, 0x5b];

    fn v6() -> Vec<u8> {
        let source = "2001:db8::7".parse::<Ipv6Addr>().unwrap().octets();
        [&source[..], &[0; 16], &[0x30, 0x39, 0x07, 0x5b]].concat()
    }

    #[test]
    fn the_address_of_the_client_is_read_and_what_follows_is_left() {
        let at = |address: &str| Some(ProxiedClient::Tcp(address.parse().unwrap()));
        let (v4, v6_address) = (at("192.0.2.1:12345"), at("[2001:db8::7]:12345"));
        let unix = |path: &str| Some(ProxiedClient::Unix(path.into()));
        for (header, client) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 1883\r\n".to_vec(), v4.clone()),
            (b"PROXY TCP6 2001:db8::7 ::1 12345 1883\r\n".to_vec(), v6_address.clone()),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN whatever follows\r\n".to_vec(), None),
            (binary_header(0x21, 0x11, V4), v4.clone()),
            (binary_header(0x21, 0x11, &[V4, &[4, 0, 2, 1, 2], &[3, 0, 0]].concat()), v4),
            (binary_header(0x21, 0x21, &v6()), v6_address),
            (binary_header(0x20, 0x00, b""), None),
            (binary_header(0x20, 0x11, V4), None),
            (binary_header(0x21, 0x31, &[0; 216]), None),
            (
                binary_header(0x21, 0x31, &[&b"/run/a.sock"[..], &[0; 205], &[4, 0, 1, 1]].concat()),
                unix("/run/a.sock"),
            ),
            (binary_header(0x21, 0x31, b"/run/a.sock"), unix("/run/a.sock")),
            (binary_header(0x21, 0x31, &[&b"/a\nb"[..], &[0; 212]].concat()), None),
        ] {
            let followed = [header.as_slice(), b"\x10\x0c"].concat();
            let version = if header.starts_with(b"PROXY") { 1 } else { 2 };
            let is_local = header.starts_with(SIGNATURE) && header[12] == 0x20;
            let tls = ClientTls::default();
            let proxied =
                |consumed| Proxied { consumed, client: client.clone(), is_local, version, tls: tls.clone() };
            let read = ProxyHeader::default().receive(&followed);
            assert_eq!(read, Ok(Some(proxied(header.len()))), "{header:02x?}");

            let mut in_parts = ProxyHeader::default();
            for byte in &header[..header.len() - 1] {
                assert_eq!(in_parts.receive(&[*byte]), Ok(None));
            }
            let rest = &followed[header.len() - 1..];
            assert_eq!(in_parts.receive(rest), Ok(Some(proxied(1))));
        }
    }

    /// What a listener makes of a client of which its proxy says this, in the field on TLS.
    fn judged(
        config: &ProxyProtocolConfig,
        tls: Option<(u8, u32, &str)>,
    ) -> Result<Option<Box<str>>, &'static str> {
        let field = tls.map(|(client, verified, name)| {
            let name = [&[COMMON_NAME_FIELD, 0, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
            let content = [&[client][..], &verified.to_be_bytes(), &name].concat();
            [&[TLS_FIELD, 0, u8::try_from(content.len()).unwrap()], content.as_slice()].concat()
        });
        let header = binary_header(0x21, 0x11, &[V4, &field.unwrap_or_default()].concat());
        ProxyHeader::default().receive(&header).unwrap().unwrap().user(config)
    }

    #[test]
    fn what_a_proxy_says_of_tls_lets_a_client_in_or_not() {
        let config = |tls, identity| ProxyProtocolConfig { tls, identity, ..ProxyProtocolConfig::default() };
        let any = config(ProxiedTls::Any, ProxyIdentity::None);
        let required = config(ProxiedTls::Required, ProxyIdentity::None);
        let certified = config(ProxiedTls::Certificate, ProxyIdentity::Cn);
        for (config, tls, expected) in [
            (&any, None, Ok(None)),
            (&required, None, Err(NO_TLS)),
            (&required, Some((0, 0, "")), Err(NO_TLS)),
            (&required, Some((SPEAKS_TLS, 1, "")), Ok(None)),
            (&certified, Some((SPEAKS_TLS, 0, "lamp")), Err(NO_CERTIFICATE)),
            (&certified, Some((SPEAKS_TLS | 0x02, 1, "lamp")), Err(NO_CERTIFICATE)),
            (&certified, Some((SPEAKS_TLS | 0x02, 0, "")), Ok(None)),
            (&certified, Some((SPEAKS_TLS | 0x02, 0, "lamp")), Ok(Some("lamp".into()))),
            (&certified, Some((SPEAKS_TLS | 0x04, 0, "lamp")), Ok(Some("lamp".into()))),
        ] {
            assert_eq!(judged(config, tls), expected, "{tls:?}");
        }
        let mut old = ProxyHeader::default().receive(b"PROXY UNKNOWN\r\n").unwrap().unwrap();
        let new_only = ProxyProtocolConfig { version: Some(2), ..ProxyProtocolConfig::default() };
        assert_eq!(old.user(&new_only), Err(OTHER_VERSION));
    }

    #[test]
    fn version_and_cipher_are_told_if_they_can_be_shown() {
        for (version, cipher, expected) in [
            ("TLSv1.3", "AES", Some(("TLSv1.3", "AES"))),
            ("TLSv1.3", "", None),
            ("TLSv1.3", "A\nB", None),
            (&"x".repeat(65), "AES", None),
        ] {
            let field =
                |kind, text: &str| [&[kind, 0, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            let fields = [field(VERSION_FIELD, version), field(CIPHER_FIELD, cipher)].concat();
            let content = [&[SPEAKS_TLS, 0, 0, 0, 0], fields.as_slice()].concat();
            let tls = [&[TLS_FIELD, 0, u8::try_from(content.len()).unwrap()], content.as_slice()].concat();

            let header = binary_header(0x21, 0x11, &[V4, &tls].concat());

            let proxied = ProxyHeader::default().receive(&header).unwrap().unwrap();
            assert_eq!(proxied.cipher(), expected, "{version} {cipher:?}");
        }
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        // [A14]
        for (header, rule) in [
            (b"\x10\x0c\0\x04MQTT".to_vec(), ABSENT),
            (b"GET / HTTP/1.1\r\n".to_vec(), ABSENT),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 12345\r\n".to_vec(), MALFORMED),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 1883 more\r\n".to_vec(), MALFORMED),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(), MALFORMED),
            (b"PROXY TCP6 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(), MALFORMED),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 65536 1883\r\n".to_vec(), MALFORMED),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 0 1883\r\n".to_vec(), MALFORMED),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 0\r\n".to_vec(), MALFORMED),
            (binary_header(0x21, 0x00, b"anything"), MALFORMED),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 +1 1883\r\n".to_vec(), MALFORMED),
            (b"PROXY TCP4 300.0.2.1 10.0.0.1 1 1883\r\n".to_vec(), MALFORMED),
            (b"PROXY UDP4 192.0.2.1 10.0.0.1 1 1883\r\n".to_vec(), MALFORMED),
            (b"PROXY TCP4 \xff 10.0.0.1 1 1883\r\n".to_vec(), MALFORMED),
            ([b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat(), TOO_LONG),
            (binary_header(0x11, 0x11, V4), MALFORMED),
            (binary_header(0x22, 0x11, V4), MALFORMED),
            (binary_header(0x21, 0x12, V4), MALFORMED),
            (binary_header(0x21, 0x11, &V4[..11]), MALFORMED),
            (binary_header(0x21, 0x21, V4), MALFORMED),
            (binary_header(0x21, 0x31, &[0; 215]), MALFORMED),
            (binary_header(0x21, 0x31, b"/a\nb"), MALFORMED),
            (binary_header(0x21, 0x11, &[V4, &[4, 0]].concat()), MALFORMED),
            (binary_header(0x21, 0x11, &[V4, &[4, 0, 9, 1]].concat()), MALFORMED),
            (binary_header(0x21, 0x11, &[V4, &[TLS_FIELD, 0, 4, 1, 0, 0, 0]].concat()), MALFORMED),
            (
                binary_header(0x21, 0x11, &[V4, &[TLS_FIELD, 0, 7, 1, 0, 0, 0, 0, 0x22, 0]].concat()),
                MALFORMED,
            ),
            (binary_header(0x21, 0x11, &[V4, &[0; 9_000]].concat())[..FIXED_BYTES].to_vec(), TOO_LONG),
        ] {
            assert_eq!(ProxyHeader::default().receive(&header), Err(rule), "{header:02x?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(
            start in prop_oneof![Just(SIGNATURE.to_vec()), Just(b"PROXY TCP4 ".to_vec()), Just(Vec::new())],
            rest in proptest::collection::vec(any::<u8>(), 0..300),
            cut in 1_usize..50,
        ) {
            // [A14]
            let bytes = [start, rest].concat();
            let mut header = ProxyHeader::default();
            for part in bytes.chunks(cut) {
                match header.receive(part) {
                    Ok(None) => prop_assert!(header.arrived.len() <= HEADER_BYTES_MAX),
                    Ok(Some(proxied)) => {
                        prop_assert!(proxied.consumed <= part.len());
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
    }
}
