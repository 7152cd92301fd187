//! `LISTEN` and `UNLISTEN`, read so that the proxy can do in a server's stead what they say.

use super::shape::{Lexer, Token};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenOrder {
    Listen(String),
    Unlisten(String),
    UnlistenAll,
}

impl ListenOrder {
    /// What PostgreSQL calls the command.
    pub const fn tag(&self) -> &'static str {
        match self {
            Self::Listen(_) => "LISTEN",
            Self::Unlisten(_) | Self::UnlistenAll => "UNLISTEN",
        }
    }
}

/// What a text says of listening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenOrders {
    pub orders: Vec<ListenOrder>,
    /// It says nothing else.
    pub alone: bool,
}

/// `None`: nothing, or it cannot be read.
pub fn listen_orders(text: &[u8]) -> Option<ListenOrders> {
    let tokens: Vec<Token<'_>> = Lexer::new(text).collect::<Result<_, _>>().ok()?;
    let (mut orders, mut alone) = (Vec::new(), true);
    for statement in tokens.split(|token| token.is_symbol(";")) {
        match statement {
            [] => {}
            [opener, all] if opener.is_word("unlisten") && all.is_symbol("*") => orders.push(ListenOrder::UnlistenAll),
            [opener, name] if opener.is_word("listen") && name.identifier().is_some() => {
                orders.push(ListenOrder::Listen(name.identifier()?));
            }
            [opener, name] if opener.is_word("unlisten") && name.identifier().is_some() => {
                orders.push(ListenOrder::Unlisten(name.identifier()?));
            }
            _ => alone = false,
        }
    }
    (!orders.is_empty()).then_some(ListenOrders { orders, alone })
}

/// Whether a text begins with one of these words, which is what is looked at in every text.
pub fn begins_with_listen(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    let begins = |word: &[u8]| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    begins(b"listen") || begins(b"unlisten")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_nothing_else_are_told_from_others() {
        let read = |text: &str| listen_orders(text.as_bytes());
        let listen = |name: &str| ListenOrder::Listen(name.to_owned());
        let one = read("LISTEN Orders;").unwrap();
        assert_eq!((one.orders, one.alone), (vec![listen("orders")], true));
        let two = read("listen \"A \"\"b\"; /* and */ unlisten c").unwrap();
        assert_eq!((two.orders, two.alone), (vec![listen("A \"b"), ListenOrder::Unlisten("c".into())], true));
        let reset = read("SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL").unwrap();
        assert_eq!((reset.orders, reset.alone), (vec![ListenOrder::UnlistenAll], false));
        for nothing in ["select 1", "", "listen", "listen a b", "listen 'a'", "listen a.b", "notify a"] {
            assert_eq!(read(nothing), None, "{nothing}");
        }
        assert!(begins_with_listen(b" \n LISTEN x") && begins_with_listen(b"unlisten *"));
        assert!(!begins_with_listen(b"select 1") && !begins_with_listen(b"li"));
    }
}
