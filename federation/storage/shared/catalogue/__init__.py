"""The site's catalogue in PostgreSQL: blobs, small bytes, index entries, change log, leads."""
