"""The SQLite catalogue: schema, transactions, SQL."""
