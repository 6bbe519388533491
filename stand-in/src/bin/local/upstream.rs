//! A real server, as `MAS_URL` or `HOMESERVER_URL` names it.

use std::net::IpAddr;

use http::{Uri, uri::Scheme};

use crate::Failure;

/// Where a real server is.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Upstream {
    /// A name or an address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    /// What the server is called in `Host`: the host, and the port unless it is the scheme's own.
    pub(crate) authority: String,
}

impl Upstream {
    /// Parses the value of the variable `name`.
    pub(crate) fn parse(name: &str, url: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::new(format!("{name}={url}: {why}"))
                .hint("it looks like https://matrix.example.org or http://127.0.0.1:8008")
        };
        let uri: Uri = url.parse().map_err(|_| wrong("not a URL"))?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(wrong("neither http:// nor https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("user names are not supported"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("a path is not supported"));
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        if host.is_empty() {
            return Err(wrong("no host"));
        }
        if authority.port_u16().is_none() && authority.as_str() != authority.host() {
            return Err(wrong("not a port"));
        }
        Ok(Self {
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.to_string(),
            host,
            tls,
        })
    }

    /// The address, unless the host is a name.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let parse = |url| {
            Upstream::parse("MAS_URL", url)
                .map(|up| (up.host, up.port, up.tls, up.authority))
                .map_err(|_| ())
        };
        let up = |host: &str, port, tls, authority: &str| {
            Ok((host.to_owned(), port, tls, authority.to_owned()))
        };
        assert_eq!(
            parse("https://auth.example.org"),
            up("auth.example.org", 443, true, "auth.example.org")
        );
        assert_eq!(
            parse("http://auth.example.org/"),
            up("auth.example.org", 80, false, "auth.example.org")
        );
        assert_eq!(
            parse("http://127.0.0.1:8080"),
            up("127.0.0.1", 8080, false, "127.0.0.1:8080")
        );
        assert_eq!(
            parse("https://[::1]:8443"),
            up("::1", 8443, true, "[::1]:8443")
        );
        for wrong in [
            "",
            "auth.example.org",
            "ftp://x",
            "http://",
            "http://x/auth",
            "http://u:p@x",
            "http://x?y",
            "http://x:99999",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
