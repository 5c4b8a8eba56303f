//! The grammar of a `WWW-Authenticate` header (RFC 9110, sections 5.6, 11.2 and 11.6.1), as
//! forgiving as the clients that read it: blanks and tabs where the grammar has one blank, a comma
//! that is missing, a URL that is not quoted.

/// A challenge as it was written: a scheme, and its parameters in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawChallenge {
    pub scheme: String,
    parameters: Vec<(String, String)>,
}

impl RawChallenge {
    /// Returns the first value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut parameters = self.parameters.iter();
        let (_, value) = parameters.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value)
    }
}

/// Reads the challenges of a header, up to the first part that is malformed.
pub fn parse(header: &[u8]) -> Vec<RawChallenge> {
    let mut challenges: Vec<RawChallenge> = Vec::new();
    let mut rest = Cursor(header);
    loop {
        rest.skip(|byte| is_blank(byte) || byte == b',');
        let Some(token) = rest.token() else {
            return challenges;
        };
        let mut after = rest;
        after.skip(is_blank);
        match challenges.last_mut() {
            Some(challenge) if after.take(b'=') => {
                after.skip(is_blank);
                let Some(value) = after.value() else {
                    return challenges;
                };
                challenge.parameters.push((token, value));
                rest = after;
            }
            _ => {
                rest.skip_token68();
                challenges.push(RawChallenge {
                    scheme: token,
                    parameters: Vec::new(),
                });
            }
        }
    }
}

/// What is left of a header.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn skip(&mut self, is_skipped: impl Fn(u8) -> bool) {
        while let [first, rest @ ..] = self.0
            && is_skipped(*first)
        {
            self.0 = rest;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        match self.0.strip_prefix(&[byte]) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// Takes the bytes up to the first that is of another kind; `None` where there is none of it.
    fn run(&mut self, is_of_kind: impl Fn(u8) -> bool) -> Option<String> {
        let end = self.0.iter().position(|byte| !is_of_kind(*byte));
        let (run, rest) = self.0.split_at_checked(end.unwrap_or(self.0.len()))?;
        self.0 = rest;
        let text = String::from_utf8_lossy(run).into_owned();
        (!text.is_empty()).then_some(text)
    }

    fn token(&mut self) -> Option<String> {
        self.run(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    }

    /// Takes the data of a scheme that has no parameters (`Negotiate YWJj==`), if there is any.
    fn skip_token68(&mut self) {
        let mut after = *self;
        after.skip(is_blank);
        after.skip(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte));
        after.skip(|byte| byte == b'=');
        after.skip(is_blank);
        if matches!(after.0.first(), None | Some(b',')) {
            *self = after;
        }
    }

    /// Takes the value of a parameter: a quoted string, or all up to a comma or blank.
    fn value(&mut self) -> Option<String> {
        if !self.take(b'"') {
            return self.run(|byte| byte.is_ascii_graphic() && !b",\"".contains(&byte));
        }
        let mut value = Vec::new();
        while let [first, rest @ ..] = self.0 {
            self.0 = rest;
            match (*first, rest) {
                (b'"', _) => return Some(String::from_utf8_lossy(&value).into_owned()),
                (b'\\', [escaped, rest @ ..]) => {
                    value.push(*escaped);
                    self.0 = rest;
                }
                (byte, _) => value.push(byte),
            }
        }
        None
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn described(header: &[u8]) -> String {
        let describe = |challenge: &RawChallenge| {
            let parameters = challenge.parameters.iter();
            let parameters = parameters.map(|(name, value)| format!(" {name}={value}"));
            challenge.scheme.clone() + &parameters.collect::<String>()
        };
        let challenges: Vec<_> = parse(header).iter().map(describe).collect();
        challenges.join("; ")
    }

    #[test]
    fn reads_what_the_grammar_and_clients_allow() {
        for (header, expected) in [
            (
                &b"Bearer realm=\"r\",service=\"s\""[..],
                "Bearer realm=r service=s",
            ),
            (b"Bearer  realm=\"r\"", "Bearer realm=r"),
            (
                b"Bearer\t realm=\"r\"\t,\tservice=s",
                "Bearer realm=r service=s",
            ),
            (
                b"Bearer realm = \"r\" , service\t= \"s\" ",
                "Bearer realm=r service=s",
            ),
            (
                b",, Bearer , realm=\"r\",,service=s,",
                "Bearer realm=r service=s",
            ),
            (
                b"Bearer realm=\"r\" service=\"s\"",
                "Bearer realm=r service=s",
            ),
            (
                b"Bearer realm=https://a.io/t?x=1,service=s",
                "Bearer realm=https://a.io/t?x=1 service=s",
            ),
            (b"Bearer realm=\"a, \\\"b\\\\c\"", "Bearer realm=a, \"b\\c"),
            (
                b"Negotiate YWJj==, Bearer realm=r",
                "Negotiate; Bearer realm=r",
            ),
            (
                b"Negotiate, Basic realm=\"x\",Bearer realm=r",
                "Negotiate; Basic realm=x; Bearer realm=r",
            ),
            (b"NTLM , Bearer realm=r", "NTLM; Bearer realm=r"),
            (
                b"Basic realm=\"x\" Bearer realm=\"r\"",
                "Basic realm=x; Bearer realm=r",
            ),
            (
                b"Basic realm=\"Gr\xf6\xdfe\", Bearer realm=\"r\"",
                "Basic realm=Gr\u{fffd}\u{fffd}e; Bearer realm=r",
            ),
            (b"Bearer realm=\"r\", x=\"open", "Bearer realm=r"),
            (b"Bearer realm=\"r\"; service=s", "Bearer realm=r"),
            (b"Bearer realm=", "Bearer"),
            (b"Bearer", "Bearer"),
            (b"Bearer =x", "Bearer"),
            (b"=x", ""),
            (b"\"", ""),
            (b"", ""),
        ] {
            assert_eq!(described(header), expected, "{}", header.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(header in prop::collection::vec(any::<u8>(), 0..60)) {
            parse(&header);
        }

        #[test]
        fn blanks_say_nothing(
            blanks in prop::collection::vec("[ \t]{0,3}", 8),
            quoted in "[ -~&&[^\"\\\\]]{0,9}",
        ) {
            let [a, b, c, d, e, f, g, h] = blanks.as_slice() else { unreachable!() };
            let header = format!("{a}Bearer {b}realm{c}={d}\"{quoted}\"{e},{f}service{g}=s{h}");
            prop_assert_eq!(
                described(header.as_bytes()),
                format!("Bearer realm={quoted} service=s")
            );
        }
    }
}
