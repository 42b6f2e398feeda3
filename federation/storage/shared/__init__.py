"""A site of several interchangeable nodes over PostgreSQL and an S3-compatible bucket."""
