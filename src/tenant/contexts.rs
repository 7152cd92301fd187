//! Equal contexts, kept once: backends and sessions that agree then hold the same one, and seeing so takes
//! one comparison of pointers.

use std::sync::Arc;

use super::Context;
use super::context::Whose;
use crate::base::Interned;

#[derive(Debug, Default)]
pub struct Contexts(Interned<Whose, Context>);

impl Contexts {
    /// The context that is equal to this one and in use, or this one from now on.
    pub fn shared(&self, context: Context) -> Arc<Context> {
        self.0.shared(context.whose().clone(), context)
    }

    /// Drops what was kept for the like of this context, if nobody uses it any more.
    pub fn forget(&self, context: &Context) {
        self.0.forget(context.whose());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::TenantId;

    #[test]
    fn equal_contexts_are_one_and_others_are_not() {
        let contexts = Contexts::default();
        let of = |tenant: &str, value: &str| {
            let settings = vec![("app.x".to_owned(), value.to_owned())];
            let claims = serde_json::Map::new();
            contexts.shared(Context::new(&TenantId::parse(tenant).unwrap(), None, &claims, settings))
        };
        let one = of("acme", "1");
        assert!(Arc::ptr_eq(&one, &of("acme", "1")));
        assert!(!Arc::ptr_eq(&one, &of("acme", "2")));
        assert!(!Arc::ptr_eq(&one, &of("globex", "1")));
    }
}
