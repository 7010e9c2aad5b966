-- The next generation of the view, made beside the one that is read, and the moment in which it takes its place.

-- Makes schema "view_next" with the tables and parts of "view", empty. Whatever tables a later migration adds to the view are among them.
CREATE FUNCTION view_begin_next() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    relation record;
BEGIN
    CREATE SCHEMA view_next;
    FOR relation IN SELECT c.oid, c.relname, c.relkind FROM pg_class c
                    WHERE c.relnamespace = 'view'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition LOOP
        EXECUTE format('CREATE TABLE view_next.%1$I (LIKE view.%1$I INCLUDING ALL)', relation.relname)
            || CASE WHEN relation.relkind = 'p' THEN ' PARTITION BY ' || pg_get_partkeydef(relation.oid) ELSE '' END;
    END LOOP;
    PERFORM view_make_part('view_next', starts_at, ends_at) FROM view.parts;
END
$$;

-- Gives the next generation the name. What reads the view through schema "contract" is bound to the old tables until it is made again.
-- The old generation stays as "view_retired", for the caller to drop.
CREATE FUNCTION view_flip() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    contracts text[] := ARRAY(SELECT format('CREATE OR REPLACE VIEW contract.%I AS %s', relname, pg_get_viewdef(oid)) FROM pg_class
                              WHERE relnamespace = 'contract'::regnamespace AND relkind = 'v');
    statement text;
BEGIN
    ALTER SCHEMA view RENAME TO view_retired;
    ALTER SCHEMA view_next RENAME TO view;
    FOREACH statement IN ARRAY contracts LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
