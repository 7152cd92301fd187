//! Files of SQL that are to run within one transaction.

use pg_query::NodeEnum;

/// Whether a statement of this text would begin or end a transaction. A text that cannot be read does not: the
/// server will say what is wrong with it.
pub fn ends_transaction(text: &str) -> bool {
    let Ok(parsed) = pg_query::parse(text, 0) else { return false };
    let kinds = parsed.protobuf.stmts.iter().filter_map(|raw| raw.stmt.as_ref()?.node.as_ref());
    kinds.into_iter().any(|node| matches!(node, NodeEnum::TransactionStmt(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_about_transactions_are_found_and_bodies_of_functions_left_alone() {
        for ending in ["commit", "create table a (b int); END;", "begin; rollback", "select 1; savepoint x"] {
            assert!(ends_transaction(ending), "{ending}");
        }
        for fine in ["", "select 'commit'", "do $$ begin perform 1; end $$; -- commit", "this is no SQL; commit"] {
            assert!(!ends_transaction(fine), "{fine}");
        }
    }
}
