-- The benchmarks' database: what a business application of middling age keeps.
-- Text in words and sentences, jsonb, uuid, bytea, timestamps and numerics, in
-- six tables.  Deterministic: everything is derived from row numbers.
--
--   psql -X -v scale=1 -d DATABASE -f tests/support/application.sql
--
-- Measured with scale 1 (the default) on two cores, PostgreSQL 15, fsync off:
--   created in                  64 s
--   pg_dump, plain             809 MB  (documents 32 %, events 33 %, payments 14 %,
--                                       messages 9 %, attachments 9 %, accounts 2 %)
--   pg_dump | gzip -6          323 MB  (39.9 % of it)
--   pg_dump | zstd -3          300 MB  (37.1 % of it)

\set ON_ERROR_STOP 1
\if :{?scale}
\else
    \set scale 1
\endif
SET client_encoding = 'UTF8';
SET client_min_messages = warning;
SET timezone = 'UTC';
SET work_mem = '256MB';
SET maintenance_work_mem = '256MB';
SET synchronous_commit = off;

BEGIN;

-- The generator: pick(i, seed, n) is a number from 0 to n - 1, always the same
-- for the same arguments.  A plain SQL expression, so that it gets inlined.
CREATE SCHEMA generator;
CREATE FUNCTION generator.pick(i bigint, seed bigint, n bigint) RETURNS integer
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN abs(hashint8extended(i, seed) % n)::integer;

-- 4000 words of two to four syllables, drawn by a long-tailed distribution
-- (few words are frequent, most are rare), as in a natural language.
CREATE TABLE generator.words AS
SELECT w AS id,
       (SELECT string_agg(s[1 + generator.pick(w * 8 + p, 1, 64)], '' ORDER BY p)
        FROM generate_series(1, CASE WHEN w < 60 THEN 1 ELSE 2 + generator.pick(w, 2, 3) END) AS p) AS word
FROM generate_series(0, 3999) AS w,
     (SELECT string_to_array(
         'a al an ar as at ba be bo ca ce co da de di do e el en er es et fa fi fo ga ge ha he hi i in is it '
         'la le li lo ma me mi mo na ne no o on or pa pe po qua ra re ri ro sa se si so ta te ti tion un', ' ')) AS y (s);

-- 100000 sentences of 4 to 24 words.  12 MB of them: more than the window of
-- gzip or of zstd's lower levels, which therefore do not see them come again.
CREATE TABLE generator.sentences AS
SELECT g.id, initcap(substr(g.t, 1, 1)) || substr(g.t, 2) || CASE WHEN g.id % 7 = 0 THEN '?' ELSE '.' END AS t
FROM (
    SELECT s AS id, string_agg(w.word, CASE WHEN p % 9 = 8 THEN ', ' ELSE ' ' END ORDER BY p) AS t
    FROM generate_series(0, 99999) AS s
    CROSS JOIN LATERAL generate_series(1, 4 + generator.pick(s, 3, 21)) AS p
    JOIN generator.words AS w
        ON w.id = (4000 * power(generator.pick(s * 32 + p, 4, 1000000) / 1000000.0::float8, 1.8))::integer % 4000
    GROUP BY s
) AS g;
ALTER TABLE generator.sentences ADD PRIMARY KEY (id);
ANALYZE generator.words, generator.sentences;

CREATE TABLE accounts AS
SELECT i::bigint AS id,
       md5('account' || i)::uuid AS key,
       split_part(lower(a.t), ' ', 1) || '.' || split_part(lower(a.t), ' ', 2) || i
           || (ARRAY['@example.com', '@example.org', '@mail.example.net'])[1 + i % 3] AS email,
       initcap(split_part(a.t, ' ', 1) || ' ' || split_part(a.t, ' ', 3)) AS name,
       (ARRAY['de', 'en', 'fr', 'es', 'ja'])[1 + generator.pick(i, 10, 5)] AS language,
       (generator.pick(i, 11, 100000000) / 100.0)::numeric(12, 2) AS balance,
       b.t AS about,
       jsonb_build_object('theme', (ARRAY['dark', 'light'])[1 + i % 2], 'mails', i % 3 = 0,
                          'columns', jsonb_build_array(i % 5, i % 7, i % 11)) AS settings,
       timestamptz '2019-01-01 00:00:00+00' + i * interval '31 minutes'
           + generator.pick(i, 12, 60000000) * interval '1 microsecond' AS created_at
FROM generate_series(1, (60000 * :scale)::integer) AS i
JOIN generator.sentences AS a ON a.id = generator.pick(i, 13, 100000)
JOIN generator.sentences AS b ON b.id = generator.pick(i, 14, 100000);

-- The largest table; one row in sixteen is long enough to be stored out of line.
CREATE TABLE documents AS
SELECT i::bigint AS id,
       1 + generator.pick(i, 20, (60000 * :scale)::bigint) AS account_id,
       md5('document' || i)::uuid AS key,
       left(a.t, 60) AS title,
       a.t || ' ' || b.t || ' ' || c.t || E'\n\n' || d.t || ' ' || e.t || ' ' || f.t
           || CASE WHEN i % 16 = 0
                   THEN E'\n\n' || (SELECT string_agg(s.t, E'\n' ORDER BY p) FROM generate_series(1, 24) AS p
                                     JOIN generator.sentences AS s ON s.id = generator.pick(i * 32 + p, 29, 100000))
                   ELSE '' END AS body,
       (ARRAY['draft', 'review', 'published', 'archived'])[1 + generator.pick(i, 21, 4)] AS state,
       timestamptz '2020-01-01 00:00:00+00' + i * interval '7 minutes'
           + generator.pick(i, 22, 400000000) * interval '1 microsecond' AS created_at
FROM generate_series(1, (300000 * :scale)::integer) AS i
JOIN generator.sentences AS a ON a.id = generator.pick(i, 23, 100000)
JOIN generator.sentences AS b ON b.id = generator.pick(i, 24, 100000)
JOIN generator.sentences AS c ON c.id = generator.pick(i, 25, 100000)
JOIN generator.sentences AS d ON d.id = generator.pick(i, 26, 100000)
JOIN generator.sentences AS e ON e.id = generator.pick(i, 27, 100000)
JOIN generator.sentences AS f ON f.id = generator.pick(i, 28, 100000);

CREATE TABLE messages AS
SELECT i::bigint AS id,
       1 + generator.pick(i, 30, (300000 * :scale)::bigint) AS document_id,
       1 + generator.pick(i, 31, (60000 * :scale)::bigint) AS account_id,
       a.t AS content,
       CASE WHEN i % 3 = 0 THEN timestamptz '2021-03-01 00:00:00+00' + i * interval '91 seconds' END AS read_at,
       timestamptz '2021-03-01 00:00:00+00' + i * interval '90 seconds'
           + generator.pick(i, 32, 90000000) * interval '1 microsecond' AS sent_at
FROM generate_series(1, (500000 * :scale)::integer) AS i
JOIN generator.sentences AS a ON a.id = generator.pick(i, 33, 100000);

CREATE TABLE events AS
SELECT i::bigint AS id,
       timestamptz '2022-01-01 00:00:00+00' + i * interval '40 seconds'
           + generator.pick(i, 40, 40000000) * interval '1 microsecond' AS at,
       jsonb_build_object(
           'type', (ARRAY['page_view', 'click', 'purchase', 'login', 'search'])[1 + generator.pick(i, 41, 5)],
           'account', 1 + generator.pick(i, 42, (60000 * :scale)::bigint),
           'session', md5('session' || i / 4)::uuid,
           'request', encode(sha256(i::text::bytea), 'base64'),
           'url', '/' || replace(left(a.t, 20 + generator.pick(i, 43, 20)), ' ', '/'),
           'note', CASE WHEN i % 2 = 0 THEN a.t END,
           'referrer', md5('referrer' || generator.pick(i, 52, 100000))::uuid,
           'ip', '10.' || generator.pick(i, 44, 256) || '.' || generator.pick(i, 45, 256) || '.' || generator.pick(i, 46, 256),
           'duration_ms', (generator.pick(i, 47, 1000000) / 1000.0)::numeric(9, 3),
           'client', jsonb_build_object(
               'name', (ARRAY['Firefox', 'Chrome', 'Safari', 'curl'])[1 + generator.pick(i, 48, 4)],
               'version', 90 + generator.pick(i, 49, 40) || '.' || generator.pick(i, 50, 10)),
           'tags', CASE WHEN i % 4 = 0 THEN jsonb_build_array('beta', i % 9, NULL) ELSE '[]' END) AS data
FROM generate_series(1, (600000 * :scale)::integer) AS i
JOIN generator.sentences AS a ON a.id = generator.pick(i, 51, 100000);

CREATE TABLE payments AS
SELECT md5('payment' || i)::uuid AS id,
       1 + generator.pick(i, 60, (60000 * :scale)::bigint) AS account_id,
       (generator.pick(i, 61, 10000000) / 100.0)::numeric(12, 2) AS amount,
       (ARRAY['EUR', 'USD', 'JPY'])[1 + generator.pick(i, 62, 3)] AS currency,
       (generator.pick(i, 63, 1000000000) / 1000000000.0)::numeric(12, 9) AS rate,
       'Invoice ' || lpad(generator.pick(i, 64, 100000000)::text, 8, '0') AS reference,
       i % 20 = 0 AS refunded,
       timestamptz '2021-01-01 00:00:00+00' + i * interval '1 minute'
           + generator.pick(i, 65, 60000000) * interval '1 microsecond' AS paid_at
FROM generate_series(1, (1000000 * :scale)::integer) AS i;

-- Two thirds digests, which nothing compresses, one third structure.
CREATE TABLE attachments AS
SELECT i::bigint AS id,
       1 + generator.pick(i, 70, (300000 * :scale)::bigint) AS document_id,
       split_part(lower(a.t), ' ', 2) || '.' || (ARRAY['png', 'pdf', 'zip'])[1 + i % 3] AS name,
       'application/octet-stream'::text AS type,
       (SELECT string_agg(sha512(('a' || i || '.' || p)::bytea)
                   || decode(lpad(to_hex(p * 4096 + i % 4096), 64, '00ff'), 'hex'), '' ORDER BY p)
        FROM generate_series(1, 8 + generator.pick(i, 71, 48)) AS p) AS content
FROM generate_series(1, (12000 * :scale)::integer) AS i
JOIN generator.sentences AS a ON a.id = generator.pick(i, 72, 100000);

DROP SCHEMA generator CASCADE;

ALTER TABLE accounts ADD PRIMARY KEY (id);
ALTER TABLE documents ADD PRIMARY KEY (id), ADD FOREIGN KEY (account_id) REFERENCES accounts;
ALTER TABLE messages ADD PRIMARY KEY (id);
ALTER TABLE events ADD PRIMARY KEY (id);
ALTER TABLE payments ADD PRIMARY KEY (id), ADD FOREIGN KEY (account_id) REFERENCES accounts;
ALTER TABLE attachments ADD PRIMARY KEY (id);
CREATE INDEX ON events (at);
CREATE INDEX ON messages (document_id);

COMMIT;

-- Hint bits and visibility now, not in the middle of the first measurement.
VACUUM (ANALYZE);
