-- When what a delivery's row shows was appended. An attempt is told of twice where a report or its commit was lost, or where a dispatcher was halted
-- while another one took over: the telling that was appended last counts, in whatever parts the log is read again. Not known of rows from before:
-- for them any telling of the same attempt counts.
ALTER TABLE view.deliveries ADD COLUMN last_appended_at timestamptz;
-- An unfinished rebuild has tables without it, and begins anew.
DELETE FROM consumer_positions WHERE consumer = 'materializer-rebuild';
DROP SCHEMA IF EXISTS view_next CASCADE;
