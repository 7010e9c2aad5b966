-- Until now a dispatcher that moved a position by less than it had read left out the time of what it passed. Such a time is too low, and from now on a
-- record before the position that is younger means that the log lost its end. Without a time nothing is concluded; the next record brings one.
UPDATE consumer_positions SET record_time = NULL WHERE consumer = 'dispatcher';
