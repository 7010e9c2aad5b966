-- A contested row of the schedule stands for several places of one event id. It is sent only when the place that the view shows is one of them:
-- any other place was, or will be, delivered for itself. By partition the first and the last offset; of the places of one id in a partition the
-- view shows the first that it read, so the range takes in none that was delivered before. NULL: only the row's own place.
ALTER TABLE delivery_schedule ADD COLUMN places jsonb;
-- Which places these rows stand for was not written down: any.
UPDATE delivery_schedule
SET places = (SELECT jsonb_object_agg(partition, jsonb_build_array(0, 9223372036854775807)) FROM (SELECT DISTINCT partition FROM consumer_positions) AS known)
WHERE contested;
ALTER TABLE delivery_schedule DROP COLUMN contested;

CREATE FUNCTION schedule_places(log_partition integer, log_offset bigint) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object(log_partition, jsonb_build_array(log_offset, log_offset))
$$;

CREATE FUNCTION schedule_places_merged(known jsonb, added jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_object_agg(key, jsonb_build_array(first_offset, last_offset)) FROM (
        SELECT key, min((value ->> 0)::bigint) AS first_offset, max((value ->> 1)::bigint) AS last_offset
        FROM (SELECT key, value FROM jsonb_each(known) UNION ALL SELECT key, value FROM jsonb_each(added)) AS both_of_them GROUP BY key
    ) AS merged
$$;
