//! server -> bytes: PostgreSQL through its own programs.


