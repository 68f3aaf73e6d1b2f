SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE SCHEMA dbos;
CREATE FUNCTION dbos.enqueue_workflow(workflow_name text, queue_name text, positional_args json[] DEFAULT ARRAY[]::json[], named_args json DEFAULT '{}'::json, class_name text DEFAULT NULL::text, config_name text DEFAULT NULL::text, workflow_id text DEFAULT NULL::text, app_version text DEFAULT NULL::text, timeout_ms bigint DEFAULT NULL::bigint, deadline_epoch_ms bigint DEFAULT NULL::bigint, deduplication_id text DEFAULT NULL::text, priority integer DEFAULT NULL::integer, queue_partition_key text DEFAULT NULL::text, authenticated_user text DEFAULT NULL::text, authenticated_roles text DEFAULT NULL::text, delay_until_epoch_ms bigint DEFAULT NULL::bigint, application_name text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_workflow_id TEXT;
    v_serialized_inputs TEXT;
    v_owner_xid TEXT;
    v_now BIGINT;
    v_recovery_attempts INT4 := 0;
    v_priority INT4;
    v_status TEXT;
BEGIN
    -- Validate required parameters
    IF workflow_name IS NULL OR workflow_name = '' THEN
        RAISE EXCEPTION 'Workflow name cannot be null or empty';
    END IF;
    IF queue_name IS NULL OR queue_name = '' THEN
        RAISE EXCEPTION 'Queue name cannot be null or empty';
    END IF;
    IF named_args IS NOT NULL AND jsonb_typeof(named_args::jsonb) != 'object' THEN
        RAISE EXCEPTION 'Named args must be a JSON object';
    END IF;
    IF workflow_id IS NOT NULL AND workflow_id = '' THEN
        RAISE EXCEPTION 'Workflow ID cannot be an empty string if provided.';
    END IF;
    IF delay_until_epoch_ms IS NOT NULL AND delay_until_epoch_ms < 0 THEN
        RAISE EXCEPTION 'delay_until_epoch_ms must be >= 0';
    END IF;
    v_workflow_id := COALESCE(workflow_id, gen_random_uuid()::TEXT);
    v_owner_xid := gen_random_uuid()::TEXT;
    v_priority := COALESCE(priority, 0);
    v_serialized_inputs := json_build_object(
        'positionalArgs', positional_args,
        'namedArgs', named_args
    )::TEXT;
    v_now := EXTRACT(epoch FROM now()) * 1000;
    v_status := CASE WHEN delay_until_epoch_ms IS NULL THEN 'ENQUEUED' ELSE 'DELAYED' END;
    INSERT INTO "dbos".workflow_status (
        workflow_uuid, status,
        name, class_name, config_name,
        queue_name, deduplication_id, priority, queue_partition_key,
        application_version,
        created_at, updated_at, recovery_attempts,
        workflow_timeout_ms, workflow_deadline_epoch_ms,
        parent_workflow_id, owner_xid, serialization,
        authenticated_user, authenticated_roles,
        delay_until_epoch_ms, application_name
    ) VALUES (
        v_workflow_id, v_status,
        workflow_name, class_name, config_name,
        queue_name, deduplication_id, v_priority, queue_partition_key,
        app_version,
        v_now, v_now, v_recovery_attempts,
        timeout_ms, deadline_epoch_ms,
        NULL, v_owner_xid, 'portable_json',
        authenticated_user, authenticated_roles,
        delay_until_epoch_ms, application_name
    )
    ON CONFLICT (workflow_uuid)
    DO UPDATE SET
        updated_at = EXCLUDED.updated_at;
    INSERT INTO "dbos".workflow_input (
        workflow_uuid, inputs, retention_timestamp
    ) VALUES (
        v_workflow_id, v_serialized_inputs, v_now
    )
    ON CONFLICT (workflow_uuid) DO NOTHING;
    RETURN v_workflow_id;
EXCEPTION
    WHEN unique_violation THEN
        RAISE EXCEPTION 'DBOS queue duplicated'
            USING DETAIL = format('Workflow %s with queue %s and deduplication ID %s already exists', v_workflow_id, queue_name, deduplication_id),
                ERRCODE = 'unique_violation';
END;
$$;
CREATE FUNCTION dbos.notifications_function() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    payload text := NEW.destination_uuid || '::' || NEW.topic;
BEGIN
    PERFORM pg_notify('dbos_notifications_channel', payload);
    RETURN NEW;
END;
$$;
CREATE FUNCTION dbos.send_message(destination_id text, message json, topic text DEFAULT NULL::text, message_id text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_topic TEXT := COALESCE(topic, '__null__topic__');
    v_message_id TEXT := COALESCE(message_id, gen_random_uuid()::TEXT);
BEGIN
    INSERT INTO "dbos".notifications (
        destination_uuid, topic, message, message_uuid, serialization
    ) VALUES (
        destination_id, v_topic, message, v_message_id, 'portable_json'
    )
    ON CONFLICT (message_uuid) DO NOTHING;
EXCEPTION
    WHEN foreign_key_violation THEN
        RAISE EXCEPTION 'DBOS non-existent workflow'
            USING DETAIL = format('Destination workflow %s does not exist', destination_id),
                ERRCODE = 'foreign_key_violation';
END;
$$;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE dbos.application_versions (
    version_id text NOT NULL,
    version_name text NOT NULL,
    version_timestamp bigint DEFAULT ((EXTRACT(epoch FROM now()) * 1000.0))::bigint NOT NULL,
    created_at bigint DEFAULT ((EXTRACT(epoch FROM now()) * 1000.0))::bigint NOT NULL,
    application_name text
);
CREATE TABLE dbos.dbos_migrations (
    version bigint NOT NULL
);
CREATE TABLE dbos.event_dispatch_kv (
    service_name text NOT NULL,
    workflow_fn_name text NOT NULL,
    key text NOT NULL,
    value text,
    update_seq numeric(38,0),
    update_time numeric(38,15)
);
CREATE TABLE dbos.notifications (
    message_uuid text DEFAULT gen_random_uuid() NOT NULL,
    destination_uuid text NOT NULL,
    topic text,
    message text NOT NULL,
    created_at_epoch_ms bigint DEFAULT ((EXTRACT(epoch FROM now()) * 1000.0))::bigint NOT NULL,
    serialization text,
    consumed boolean DEFAULT false NOT NULL,
    consumed_by_function_id integer
);
CREATE TABLE dbos.operation_outputs (
    workflow_uuid text NOT NULL,
    function_id integer NOT NULL,
    function_name text DEFAULT ''::text NOT NULL,
    output text,
    error text,
    child_workflow_id text,
    started_at_epoch_ms bigint,
    completed_at_epoch_ms bigint,
    serialization text,
    application_name text,
    retention_timestamp bigint DEFAULT ((EXTRACT(epoch FROM now()) * 1000.0))::bigint NOT NULL
);
CREATE TABLE dbos.queues (
    queue_id text DEFAULT (gen_random_uuid())::text NOT NULL,
    name text NOT NULL,
    concurrency integer,
    worker_concurrency integer,
    rate_limit_max integer,
    rate_limit_period_sec double precision,
    priority_enabled boolean DEFAULT false NOT NULL,
    partition_queue boolean DEFAULT false NOT NULL,
    polling_interval_sec double precision DEFAULT 1.0 NOT NULL,
    created_at bigint DEFAULT ((EXTRACT(epoch FROM now()) * 1000.0))::bigint NOT NULL,
    updated_at bigint DEFAULT ((EXTRACT(epoch FROM now()) * 1000.0))::bigint NOT NULL,
    application_name text,
    partition_concurrency integer,
    partition_worker_concurrency integer,
    partition_rate_limit_max integer,
    partition_rate_limit_period_sec double precision
);
CREATE TABLE dbos.streams (
    workflow_uuid text NOT NULL,
    key text NOT NULL,
    value text NOT NULL,
    "offset" integer NOT NULL,
    function_id integer DEFAULT 0 NOT NULL,
    serialization text
);
CREATE TABLE dbos.workflow_events (
    workflow_uuid text NOT NULL,
    key text NOT NULL,
    value text NOT NULL,
    serialization text
);
CREATE TABLE dbos.workflow_events_history (
    workflow_uuid text NOT NULL,
    function_id integer NOT NULL,
    key text NOT NULL,
    value text NOT NULL,
    serialization text
);
CREATE TABLE dbos.workflow_input (
    workflow_uuid text NOT NULL,
    inputs text,
    retention_timestamp bigint DEFAULT ((EXTRACT(epoch FROM now()) * 1000.0))::bigint NOT NULL
);
CREATE TABLE dbos.workflow_output (
    workflow_uuid text NOT NULL,
    output text,
    error text,
    retention_timestamp bigint DEFAULT ((EXTRACT(epoch FROM now()) * 1000.0))::bigint NOT NULL
);
CREATE TABLE dbos.workflow_schedules (
    schedule_id text NOT NULL,
    schedule_name text NOT NULL,
    workflow_name text NOT NULL,
    workflow_class_name text,
    schedule text NOT NULL,
    status text DEFAULT 'ACTIVE'::text NOT NULL,
    context text NOT NULL,
    last_fired_at text,
    automatic_backfill boolean DEFAULT false NOT NULL,
    cron_timezone text,
    queue_name text,
    application_name text
);
CREATE TABLE dbos.workflow_status (
    workflow_uuid text NOT NULL,
    status text,
    name text,
    authenticated_user text,
    assumed_role text,
    authenticated_roles text,
    request text,
    output text,
    error text,
    executor_id text,
    created_at bigint DEFAULT ((EXTRACT(epoch FROM now()) * 1000.0))::bigint NOT NULL,
    updated_at bigint DEFAULT ((EXTRACT(epoch FROM now()) * 1000.0))::bigint NOT NULL,
    application_version text,
    application_id text,
    class_name character varying(255) DEFAULT NULL::character varying,
    config_name character varying(255) DEFAULT NULL::character varying,
    recovery_attempts bigint DEFAULT 0,
    queue_name text,
    workflow_timeout_ms bigint,
    workflow_deadline_epoch_ms bigint,
    inputs text,
    started_at_epoch_ms bigint,
    deduplication_id text,
    priority integer DEFAULT 0 NOT NULL,
    queue_partition_key text,
    forked_from text,
    owner_xid text,
    parent_workflow_id text,
    serialization text,
    delay_until_epoch_ms bigint,
    was_forked_from boolean DEFAULT false NOT NULL,
    rate_limited boolean DEFAULT false NOT NULL,
    completed_at bigint,
    attributes jsonb,
    schedule_name text,
    debounce_deadline_epoch_ms bigint,
    is_debounced boolean DEFAULT false NOT NULL,
    application_name text,
    creator_xid text
);
CREATE TABLE public.audit (
    number integer NOT NULL,
    at double precision NOT NULL,
    who character varying(128) NOT NULL,
    what character varying(64) NOT NULL,
    study_uid character varying(64),
    detail json NOT NULL,
    chain character varying(64) NOT NULL
);
CREATE TABLE public.delivery (
    sop_instance_uid character varying(64) NOT NULL,
    destination character varying(64) NOT NULL,
    state character varying(16) NOT NULL,
    attempts integer NOT NULL,
    status integer,
    reason text,
    sent_at double precision,
    committed_at double precision,
    transaction character varying(64)
);
CREATE TABLE public.executor (
    executor_id character varying(128) NOT NULL,
    host character varying(255) NOT NULL,
    boot_id character varying(36) NOT NULL,
    pid integer NOT NULL,
    beat_at double precision NOT NULL
);
CREATE TABLE public.image (
    job character varying(32) NOT NULL,
    number integer NOT NULL,
    name character varying(80) NOT NULL,
    series_uid character varying(64) NOT NULL,
    outcome character varying(16) NOT NULL,
    reason text,
    lesions json NOT NULL
);
CREATE TABLE public.instance (
    sop_instance_uid character varying(64) NOT NULL,
    digest character varying(64) NOT NULL,
    study_uid character varying(64),
    series_uid character varying(64),
    sop_class_uid character varying(64) NOT NULL,
    transfer_syntax character varying(64) NOT NULL,
    file character varying(64) NOT NULL,
    size bigint NOT NULL,
    calling_ae character varying(16) NOT NULL,
    received_at double precision NOT NULL,
    aside boolean NOT NULL,
    reason text,
    retention character varying(16) DEFAULT 'kept'::character varying NOT NULL
);
CREATE TABLE public.job (
    id character varying(32) NOT NULL,
    study_uid character varying(64) NOT NULL,
    bundle character varying(64) NOT NULL,
    bundle_version character varying(64) NOT NULL,
    bundle_hash character varying(64) NOT NULL,
    content character varying(64) NOT NULL,
    instances json NOT NULL,
    rule character varying(100) NOT NULL,
    priority integer NOT NULL,
    destinations json NOT NULL,
    generation integer NOT NULL,
    state character varying(16) NOT NULL,
    step character varying(16) NOT NULL,
    attempts integer NOT NULL,
    reason text,
    seconds json NOT NULL,
    received_at double precision NOT NULL,
    created_at double precision NOT NULL,
    updated_at double precision NOT NULL
);
CREATE TABLE public.medpipe_revision (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.result (
    sop_instance_uid character varying(64) NOT NULL,
    job character varying(32) NOT NULL,
    image character varying(80),
    sop_class_uid character varying(64) NOT NULL,
    series_uid character varying(64) NOT NULL,
    file text NOT NULL,
    digest character varying(64) NOT NULL,
    superseded_by character varying(32),
    created_at double precision NOT NULL
);
CREATE TABLE public.study (
    study_uid character varying(64) NOT NULL,
    calling_aes json NOT NULL,
    first_at double precision NOT NULL,
    last_at double precision NOT NULL,
    instances integer NOT NULL,
    generation integer NOT NULL,
    settled integer NOT NULL,
    reason text,
    retrieval character varying(32),
    retrieval_at double precision,
    retention character varying(16) NOT NULL
);
INSERT INTO dbos.application_versions VALUES ('5487fbc1-b44a-5599-950d-99e7e9b092ee', 'medpipe-wf-1', 1767225600000, 1767225600000, 'medpipe');
INSERT INTO dbos.dbos_migrations VALUES (125);
INSERT INTO dbos.operation_outputs VALUES ('job:e3db260b1de6db2c694f050377143d97:g1:a1', 1, 'process', '"sending"', NULL, NULL, 1767225600000, 1767225600000, 'portable_json', 'medpipe', 1767225600000);
INSERT INTO dbos.operation_outputs VALUES ('deliver:e3db260b1de6db2c694f050377143d97:g1:PACS:a1', 1, 'send', '"sent"', NULL, NULL, 1767225601000, 1767225601000, 'portable_json', 'medpipe', 1767225601000);
INSERT INTO dbos.operation_outputs VALUES ('job:9eb1c17c26b4ada0632a0560763d7f23:g1:a1', 1, 'process', '"failed"', NULL, NULL, 1767225602000, 1767225602000, 'portable_json', 'medpipe', 1767225602000);
INSERT INTO dbos.operation_outputs VALUES ('confirm:e3db260b1de6db2c694f050377143d97:g1:PACS:a100', 1, 'ask', '"confirmed"', NULL, NULL, 1767225603000, 1767225603000, 'portable_json', 'medpipe', 1767225603000);
INSERT INTO dbos.operation_outputs VALUES ('job:6d2e5daa41c124dc981f732d23582180:g1:a1', 1, 'process', '"sending"', NULL, NULL, 1767225604000, 1767225604000, 'portable_json', 'medpipe', 1767225604000);
INSERT INTO dbos.operation_outputs VALUES ('deliver:6d2e5daa41c124dc981f732d23582180:g1:AWAY:a1', 1, 'send', '"sending"', NULL, NULL, 1767225605000, 1767225605000, 'portable_json', 'medpipe', 1767225605000);
INSERT INTO dbos.queues VALUES ('2d392fd6-e346-5654-a029-e09a50b42720', 'gpu', NULL, 1, NULL, NULL, true, false, 0.5, 1767225600000, 1767225600000, 'medpipe', NULL, NULL, NULL, NULL);
INSERT INTO dbos.queues VALUES ('9d111c6f-b4b4-5fc8-8929-7b1d24dd6939', 'send', NULL, 8, NULL, NULL, true, false, 0.5, 1767225601000, 1767225601000, 'medpipe', NULL, NULL, NULL, NULL);
INSERT INTO dbos.workflow_input VALUES ('job:e3db260b1de6db2c694f050377143d97:g1:a1', '{"namedArgs":{},"positionalArgs":["e3db260b1de6db2c694f050377143d97",1,1]}', 1767225600000);
INSERT INTO dbos.workflow_input VALUES ('job:9eb1c17c26b4ada0632a0560763d7f23:g1:a1', '{"namedArgs":{},"positionalArgs":["9eb1c17c26b4ada0632a0560763d7f23",1,1]}', 1767225601000);
INSERT INTO dbos.workflow_input VALUES ('job:6d2e5daa41c124dc981f732d23582180:g1:a1', '{"namedArgs":{},"positionalArgs":["6d2e5daa41c124dc981f732d23582180",1,1]}', 1767225602000);
INSERT INTO dbos.workflow_input VALUES ('deliver:e3db260b1de6db2c694f050377143d97:g1:PACS:a1', '{"namedArgs":{},"positionalArgs":["e3db260b1de6db2c694f050377143d97","PACS",1,1]}', 1767225603000);
INSERT INTO dbos.workflow_input VALUES ('confirm:e3db260b1de6db2c694f050377143d97:g1:PACS:a100', '{"namedArgs":{},"positionalArgs":["e3db260b1de6db2c694f050377143d97","PACS",1,100]}', 1767225604000);
INSERT INTO dbos.workflow_input VALUES ('deliver:6d2e5daa41c124dc981f732d23582180:g1:AWAY:a1', '{"namedArgs":{},"positionalArgs":["6d2e5daa41c124dc981f732d23582180","AWAY",1,1]}', 1767225605000);
INSERT INTO dbos.workflow_input VALUES ('deliver:6d2e5daa41c124dc981f732d23582180:g1:AWAY:a2', '{"namedArgs":{},"positionalArgs":["6d2e5daa41c124dc981f732d23582180","AWAY",1,2]}', 1767225606000);
INSERT INTO dbos.workflow_input VALUES ('job:09c923990bc0b83db5c2c4058581d23e:g1:a1', '{"namedArgs":{},"positionalArgs":["09c923990bc0b83db5c2c4058581d23e",1,1]}', 1767225607000);
INSERT INTO dbos.workflow_input VALUES ('job:ef82e6113617143d9ee4cfd712824fe8:g1:a1', '{"namedArgs":{},"positionalArgs":["ef82e6113617143d9ee4cfd712824fe8",1,1]}', 1767225608000);
INSERT INTO dbos.workflow_input VALUES ('job:7685d22d5323df2b93aabdc4403f2933:g1:a1', '{"namedArgs":{},"positionalArgs":["7685d22d5323df2b93aabdc4403f2933",1,1]}', 1767225609000);
INSERT INTO dbos.workflow_output VALUES ('job:e3db260b1de6db2c694f050377143d97:g1:a1', '"sending"', NULL, 1767225600000);
INSERT INTO dbos.workflow_output VALUES ('deliver:e3db260b1de6db2c694f050377143d97:g1:PACS:a1', '"sent"', NULL, 1767225601000);
INSERT INTO dbos.workflow_output VALUES ('job:9eb1c17c26b4ada0632a0560763d7f23:g1:a1', '"failed"', NULL, 1767225602000);
INSERT INTO dbos.workflow_output VALUES ('confirm:e3db260b1de6db2c694f050377143d97:g1:PACS:a100', '"confirmed"', NULL, 1767225603000);
INSERT INTO dbos.workflow_output VALUES ('job:6d2e5daa41c124dc981f732d23582180:g1:a1', '"sending"', NULL, 1767225604000);
INSERT INTO dbos.workflow_output VALUES ('deliver:6d2e5daa41c124dc981f732d23582180:g1:AWAY:a1', '"sending"', NULL, 1767225605000);
INSERT INTO dbos.workflow_status VALUES ('job:ef82e6113617143d9ee4cfd712824fe8:g1:a1', 'ENQUEUED', 'job', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1767225608000, 1767225608000, 'medpipe-wf-1', NULL, NULL, NULL, 0, 'gpu', NULL, NULL, NULL, NULL, NULL, 100, NULL, NULL, NULL, NULL, 'portable_json', NULL, false, false, NULL, 'null', NULL, NULL, false, 'medpipe', 'e9219108-bc8d-5004-af77-80abb1dcbee8');
INSERT INTO dbos.workflow_status VALUES ('job:7685d22d5323df2b93aabdc4403f2933:g1:a1', 'ENQUEUED', 'job', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1767225609000, 1767225609000, 'medpipe-wf-1', NULL, NULL, NULL, 0, 'gpu', NULL, NULL, NULL, NULL, NULL, 100, NULL, NULL, NULL, NULL, 'portable_json', NULL, false, false, NULL, 'null', NULL, NULL, false, 'medpipe', '8821501b-e557-5979-aba6-6044d7d8f9ef');
INSERT INTO dbos.workflow_status VALUES ('job:09c923990bc0b83db5c2c4058581d23e:g1:a1', 'PENDING', 'job', NULL, NULL, NULL, NULL, NULL, NULL, 'station-1-00000001', 1767225607000, 1767225607000, 'medpipe-wf-1', NULL, NULL, NULL, 1, 'gpu', NULL, NULL, NULL, NULL, NULL, 100, NULL, NULL, '786a5cc9-3447-59ed-bb37-5240d96dbafe', NULL, 'portable_json', NULL, false, false, NULL, 'null', NULL, NULL, false, 'medpipe', '3d64a7ef-ea0a-5de1-bfcc-abb9f060fdd2');
INSERT INTO dbos.workflow_status VALUES ('deliver:6d2e5daa41c124dc981f732d23582180:g1:AWAY:a2', 'DELAYED', 'deliver', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1767225606000, 1767225605000, 'medpipe-wf-1', NULL, NULL, NULL, 0, 'send', NULL, NULL, NULL, NULL, NULL, 100, NULL, NULL, NULL, NULL, 'portable_json', 1767225600000, false, false, NULL, 'null', NULL, NULL, false, 'medpipe', '5936d85f-f7d4-55f3-9f49-2471b7875b4a');
INSERT INTO dbos.workflow_status VALUES ('job:e3db260b1de6db2c694f050377143d97:g1:a1', 'SUCCESS', 'job', NULL, NULL, NULL, NULL, NULL, NULL, 'station-2-00000002', 1767225600000, 1767225600000, 'medpipe-wf-1', NULL, NULL, NULL, 1, 'gpu', NULL, NULL, NULL, 1767225600000, NULL, 100, NULL, NULL, NULL, NULL, 'portable_json', NULL, false, false, 1767225600000, 'null', NULL, NULL, false, 'medpipe', '13f9ceb7-3eab-5ff6-ac57-a725f239f7df');
INSERT INTO dbos.workflow_status VALUES ('deliver:e3db260b1de6db2c694f050377143d97:g1:PACS:a1', 'SUCCESS', 'deliver', NULL, NULL, NULL, NULL, NULL, NULL, 'station-2-00000002', 1767225603000, 1767225601000, 'medpipe-wf-1', NULL, NULL, NULL, 1, 'send', NULL, NULL, NULL, 1767225601000, NULL, 100, NULL, NULL, NULL, NULL, 'portable_json', NULL, false, false, 1767225601000, 'null', NULL, NULL, false, 'medpipe', '96da4c69-bd73-5bc7-9c6b-40e4e7e97219');
INSERT INTO dbos.workflow_status VALUES ('job:9eb1c17c26b4ada0632a0560763d7f23:g1:a1', 'SUCCESS', 'job', NULL, NULL, NULL, NULL, NULL, NULL, 'station-2-00000002', 1767225601000, 1767225602000, 'medpipe-wf-1', NULL, NULL, NULL, 1, 'gpu', NULL, NULL, NULL, 1767225602000, NULL, 100, NULL, NULL, NULL, NULL, 'portable_json', NULL, false, false, 1767225602000, 'null', NULL, NULL, false, 'medpipe', '7c9c627b-3c58-5a64-8de6-7afe2941a2f9');
INSERT INTO dbos.workflow_status VALUES ('confirm:e3db260b1de6db2c694f050377143d97:g1:PACS:a100', 'SUCCESS', 'confirm', NULL, NULL, NULL, NULL, NULL, NULL, 'station-2-00000002', 1767225604000, 1767225603000, 'medpipe-wf-1', NULL, NULL, NULL, 1, 'send', NULL, NULL, NULL, 1767225603000, NULL, 100, NULL, NULL, NULL, NULL, 'portable_json', NULL, false, false, 1767225603000, 'null', NULL, NULL, false, 'medpipe', '53ce6713-a4c1-5735-8c86-3286e5d1f7c2');
INSERT INTO dbos.workflow_status VALUES ('job:6d2e5daa41c124dc981f732d23582180:g1:a1', 'SUCCESS', 'job', NULL, NULL, NULL, NULL, NULL, NULL, 'station-2-00000002', 1767225602000, 1767225604000, 'medpipe-wf-1', NULL, NULL, NULL, 1, 'gpu', NULL, NULL, NULL, 1767225604000, NULL, 100, NULL, NULL, NULL, NULL, 'portable_json', NULL, false, false, 1767225604000, 'null', NULL, NULL, false, 'medpipe', '09d9875c-357f-565e-b498-59bfcc67cc6f');
INSERT INTO dbos.workflow_status VALUES ('deliver:6d2e5daa41c124dc981f732d23582180:g1:AWAY:a1', 'SUCCESS', 'deliver', NULL, NULL, NULL, NULL, NULL, NULL, 'station-2-00000002', 1767225605000, 1767225606000, 'medpipe-wf-1', NULL, NULL, NULL, 1, 'send', NULL, NULL, NULL, 1767225605000, NULL, 100, NULL, NULL, NULL, NULL, 'portable_json', NULL, false, false, 1767225605000, 'null', NULL, NULL, false, 'medpipe', 'de43178a-d6eb-5a27-8c67-94fe46a4a9e9');
INSERT INTO public.audit VALUES (1, 1767225601, 'medpipe', 'job planned', '2.25.5396382932274015525955331884816591856', '{"job": "e3db260b1de6db2c694f050377143d97", "rule": "spots"}', '0b8073808627261c04898ba1fcda905aff4ecece1ceb73e75d94bffe430cfcb8');
INSERT INTO public.audit VALUES (2, 1767225602, 'medpipe', 'job planned', '2.25.9935738715397086014180805190756362328', '{"job": "9eb1c17c26b4ada0632a0560763d7f23", "rule": "spots"}', '0a892b2ddbd9755f83f94ad34e60945c63273edeff122538b475c8d02a9158b1');
INSERT INTO public.audit VALUES (3, 1767225603, 'medpipe', 'job planned', '2.25.8994520610213224487846322863742209928', '{"job": "74338a52565df60a79678f2dd77e6f5f", "rule": ""}', 'ff564f41f4cc1c147d92489239f0b32851660a8605747261c39fadf572a0c472');
INSERT INTO public.audit VALUES (4, 1767225604, 'medpipe', 'job planned', '2.25.10486077662985063156487330612305117475', '{"job": "6d2e5daa41c124dc981f732d23582180", "rule": "elsewhere"}', '27dbb49d87f2718e45546f1e973c8859c954783ffb103942c45e7e1d0c3b0391');
INSERT INTO public.audit VALUES (5, 1767225605, 'medpipe', 'results published', '2.25.5396382932274015525955331884816591856', '{"job": "e3db260b1de6db2c694f050377143d97", "results": 2}', '702c29947c31b37ae87f13d0344e6581c3ad0ca186dc83f5d83f06f7a8fc72a8');
INSERT INTO public.audit VALUES (6, 1767225606, 'medpipe', 'results published', '2.25.10486077662985063156487330612305117475', '{"job": "6d2e5daa41c124dc981f732d23582180", "results": 2}', '67e9af5ada0fa5fcae51df35d5738cefdc6270e9bf855470e57f079d46f4b3d9');
INSERT INTO public.audit VALUES (7, 1767225607, 'medpipe', 'job planned', '2.25.7866402948949400154415594876279756089', '{"job": "09c923990bc0b83db5c2c4058581d23e", "rule": "spots"}', '63b2ca3f86cf660a50d350af6bf3515430d3dbed98540cf12b2e48ee5bb75cdc');
INSERT INTO public.audit VALUES (8, 1767225608, 'medpipe', 'job planned', '2.25.5671178964751022974650641509544460280', '{"job": "ef82e6113617143d9ee4cfd712824fe8", "rule": "spots"}', 'b0266c4cf3644ce80b8c7bb9e9eb8cd4108050ce4058ea846bf232ae647bc72e');
INSERT INTO public.audit VALUES (9, 1767225609, 'medpipe', 'job planned', '2.25.7538266465799172821764949038644977139', '{"job": "7685d22d5323df2b93aabdc4403f2933", "rule": "spots"}', '956d8c31141debb082c42176fd6a30315d5e1f03fe605e97f0e884b166aae65d');
INSERT INTO public.delivery VALUES ('2.25.8837227721023409792090277306629340357', 'AWAY', 'waiting', 1, NULL, 'PEER_UNREACHABLE: ORTHANC at 127.0.0.1:1 does not answer; check host, port and firewall', NULL, NULL, NULL);
INSERT INTO public.delivery VALUES ('2.25.5903770258862060412051455156355535401', 'AWAY', 'waiting', 1, NULL, 'PEER_UNREACHABLE: ORTHANC at 127.0.0.1:1 does not answer; check host, port and firewall', NULL, NULL, NULL);
INSERT INTO public.delivery VALUES ('2.25.6302816728260802685288825646748974792', 'PACS', 'confirmed', 1, 0, NULL, 1767225600, 1767225600, NULL);
INSERT INTO public.delivery VALUES ('2.25.5864671694150134584690513886643475536', 'PACS', 'confirmed', 1, 0, NULL, 1767225600, 1767225601, NULL);
INSERT INTO public.executor VALUES ('station-1-00000001', 'station', '00000000-0000-0000-0000-000000000001', 1, 1767225600);
INSERT INTO public.image VALUES ('e3db260b1de6db2c694f050377143d97', 0, '2.25.5776707995168826174634030756527967480', '2.25.6236529344914363699722833259079787212', 'done', NULL, '{"SPOT": 1}');
INSERT INTO public.image VALUES ('6d2e5daa41c124dc981f732d23582180', 0, '2.25.5661515605363864105121689120747553304', '2.25.8368008749841133260792352089724433705', 'done', NULL, '{"SPOT": 1}');
INSERT INTO public.instance VALUES ('2.25.5776707995168826174634030756527967480', 'aaaa15431bfc89add7b862c55f0631228076fa7b9cd1c48e42adf6b3f7e61dbb', '2.25.5396382932274015525955331884816591856', '2.25.6236529344914363699722833259079787212', '1.2.840.10008.5.1.4.1.1.77.1.5.1', '1.2.840.10008.1.2.1', '97cdffc4b6de8ed766f0606b56108351-aaaa15431bfc89ad', 13220, 'MODALITY', 1767225600, false, NULL, 'kept');
INSERT INTO public.instance VALUES ('2.25.10615100495192608421266988486048205651', '07185e2a2d1d7aede3d56fe86e730b0338c233bca4597b310aed67f7f172d9dc', '2.25.9935738715397086014180805190756362328', '2.25.6462813841342295059330142452809560997', '1.2.840.10008.5.1.4.1.1.77.1.5.1', '1.2.840.10008.1.2.1', '6971deef1aee36bd1c9fe4e64b3277cf-07185e2a2d1d7aed', 13224, 'MODALITY', 1767225601, false, NULL, 'kept');
INSERT INTO public.instance VALUES ('2.25.5683976885203704123397838264782910615', '21086aeead7f67bae7c2b9b85df46f690fc53c71b768df02b237ecacedd04d5f', '2.25.8994520610213224487846322863742209928', '2.25.6082194670899519427596587434032083239', '1.2.840.10008.5.1.4.1.1.77.1.5.1', '1.2.840.10008.1.2.1', 'f3c91c5f3c445cd984f3e5f111604d45-21086aeead7f67ba', 13220, 'MODALITY', 1767225602, false, NULL, 'kept');
INSERT INTO public.instance VALUES ('2.25.6472368776018310380312718189665193589', 'c68c805a08123f86228ef49493585d75875bebd31a7190620c4851fdbe59f6f6', '2.25.8994520610213224487846322863742209928', '2.25.6082194670899519427596587434032083239', '1.2.840.10008.5.1.4.1.1.77.1.5.1', '1.2.840.10008.1.2.1', 'e2b887131dbedd70ad1a68d41233259b-c68c805a08123f86', 13224, 'MODALITY', 1767225603, false, NULL, 'kept');
INSERT INTO public.instance VALUES ('2.25.5661515605363864105121689120747553304', '485437254ebd069b1620da44c80ee488ba848ad42ef1b398552835e6f8e8747f', '2.25.10486077662985063156487330612305117475', '2.25.8368008749841133260792352089724433705', '1.2.840.10008.5.1.4.1.1.77.1.5.1', '1.2.840.10008.1.2.1', '4f8e369507f9e0d34d800254843ac79b-485437254ebd069b', 13226, 'MODALITY', 1767225604, false, NULL, 'kept');
INSERT INTO public.instance VALUES ('2.25.9804688151158712067077446281677649524', 'c58b193d09edad59a033f87d47ac21c21ec3e3dc4fab66ada26b4696f9b3d17f', '2.25.7866402948949400154415594876279756089', '2.25.5905252782898048665305755759501920693', '1.2.840.10008.5.1.4.1.1.77.1.5.1', '1.2.840.10008.1.2.1', 'd32435a958a780fe825562ce292ca3b4-c58b193d09edad59', 13220, 'MODALITY', 1767225605, false, NULL, 'kept');
INSERT INTO public.instance VALUES ('2.25.5958919366418962055632813450823677767', '4ab7b59b7567206b77e497d0d81e9af57ff36f349aa9a49ee412e901cc0b7fd7', '2.25.5671178964751022974650641509544460280', '2.25.10270411887193212305319194588942335328', '1.2.840.10008.5.1.4.1.1.77.1.5.1', '1.2.840.10008.1.2.1', '4175bd126f43c026535d7d9b5a5f9f78-4ab7b59b7567206b', 13222, 'MODALITY', 1767225606, false, NULL, 'kept');
INSERT INTO public.instance VALUES ('2.25.8845058329354501560085406444481497211', 'bb487a99d3e289c8286275fae5c9941037d84f0984dcff39c3bed96bb6f8d7e0', '2.25.7538266465799172821764949038644977139', '2.25.6063260455628377606780157707338411490', '1.2.840.10008.5.1.4.1.1.77.1.5.1', '1.2.840.10008.1.2.1', 'ce2529af7e1a187a79ea87f7a95d36b5-bb487a99d3e289c8', 13220, 'MODALITY', 1767225607, false, NULL, 'kept');
INSERT INTO public.job VALUES ('74338a52565df60a79678f2dd77e6f5f', '2.25.8994520610213224487846322863742209928', '', '', '', '4fc848b02bfaeccbca81e229e2e03376b4675268b1a1c4de8553bbab42b4aaaf', '[]', '', 100, '[]', 1, 'quarantined', '', 0, 'TWO_PATIENTS: the study holds instances of two patient ids; correct it in the PACS', '{"network": 1.0}', 1767225602, 1767225602, 1767225600);
INSERT INTO public.job VALUES ('9eb1c17c26b4ada0632a0560763d7f23', '2.25.9935738715397086014180805190756362328', 'phantom-2d', '1.0.0', 'a38a40b617695ac839dddc5287b2142196509cb67d537ccf707d74b5534df2b5', '9a9566a10994b4c87b43921b34e18f8e3d829f884be817ac4f92176989214c89', '["6971deef1aee36bd1c9fe4e64b3277cf-07185e2a2d1d7aed"]', 'spots', 100, '["PACS"]', 1, 'failed', '', 1, 'INFERENCE_CRASHED: the inference process died (status -9); out of memory, or killed', '{"network": 1.0}', 1767225601, 1767225601, 1767225601);
INSERT INTO public.job VALUES ('e3db260b1de6db2c694f050377143d97', '2.25.5396382932274015525955331884816591856', 'phantom-2d', '1.0.0', 'a38a40b617695ac839dddc5287b2142196509cb67d537ccf707d74b5534df2b5', '40e7c71a6d3d9ce15ef5b8123db4d8ab530c751d2a64c278aa8a60364c3c139b', '["97cdffc4b6de8ed766f0606b56108351-aaaa15431bfc89ad"]', 'spots', 100, '["PACS"]', 1, 'confirmed', '', 1, NULL, '{"network": 1.0}', 1767225600, 1767225600, 1767225602);
INSERT INTO public.job VALUES ('6d2e5daa41c124dc981f732d23582180', '2.25.10486077662985063156487330612305117475', 'phantom-2d', '1.0.0', 'a38a40b617695ac839dddc5287b2142196509cb67d537ccf707d74b5534df2b5', '3af17cf28820dd12d3f32e041b9f45bd018c2f4a275543ef0ce3f6cf68f27b77', '["4f8e369507f9e0d34d800254843ac79b-485437254ebd069b"]', 'elsewhere', 100, '["AWAY"]', 1, 'sending', 'send', 1, NULL, '{"network": 1.0}', 1767225603, 1767225603, 1767225603);
INSERT INTO public.job VALUES ('ef82e6113617143d9ee4cfd712824fe8', '2.25.5671178964751022974650641509544460280', 'phantom-2d', '1.0.0', 'a38a40b617695ac839dddc5287b2142196509cb67d537ccf707d74b5534df2b5', 'd94496090b1615b4abe470117d0ebeccc692459c009b800c085cd26590a36837', '["4175bd126f43c026535d7d9b5a5f9f78-4ab7b59b7567206b"]', 'spots', 100, '["PACS"]', 1, 'queued', '', 0, NULL, '{"network": 1.0}', 1767225605, 1767225605, 1767225604);
INSERT INTO public.job VALUES ('7685d22d5323df2b93aabdc4403f2933', '2.25.7538266465799172821764949038644977139', 'phantom-2d', '1.0.0', 'a38a40b617695ac839dddc5287b2142196509cb67d537ccf707d74b5534df2b5', 'b59a2866bbf389a61584b59d16f3a1f7d4bc1a203b3e0ee2efffdb503b96bf3e', '["ce2529af7e1a187a79ea87f7a95d36b5-bb487a99d3e289c8"]', 'spots', 100, '["PACS"]', 1, 'queued', '', 0, NULL, '{"network": 1.0}', 1767225606, 1767225606, 1767225605);
INSERT INTO public.job VALUES ('09c923990bc0b83db5c2c4058581d23e', '2.25.7866402948949400154415594876279756089', 'phantom-2d', '1.0.0', 'a38a40b617695ac839dddc5287b2142196509cb67d537ccf707d74b5534df2b5', '794bc6de0b46c86f91111a69ae0ab42998ab236b6a276ac42b38c9a398370e20', '["d32435a958a780fe825562ce292ca3b4-c58b193d09edad59"]', 'spots', 100, '["PACS"]', 1, 'running', 'process', 1, NULL, '{"network": 1.0}', 1767225604, 1767225604, 1767225606);
INSERT INTO public.medpipe_revision VALUES ('0002');
INSERT INTO public.result VALUES ('2.25.6302816728260802685288825646748974792', 'e3db260b1de6db2c694f050377143d97', '2.25.5776707995168826174634030756527967480', '1.2.840.10008.5.1.4.1.1.66.4', '2.25.9120058430109933041479045878298800869', 'e3db260b1de6db2c694f050377143d97-61c4843c-f489-53/2.25.5776707995168826174634030756527967480.phantom-2d.seg.dcm', '737fa2b80bee9eb28aafff11883e51ce2919fa4ee96733b21241de656b360850', NULL, 1767225600);
INSERT INTO public.result VALUES ('2.25.5864671694150134584690513886643475536', 'e3db260b1de6db2c694f050377143d97', '2.25.5776707995168826174634030756527967480', '1.2.840.10008.5.1.4.1.1.88.33', '2.25.7866089673320167140079626049637347024', 'e3db260b1de6db2c694f050377143d97-61c4843c-f489-53/2.25.5776707995168826174634030756527967480.phantom-2d.sr.dcm', '16aec3177b45a74c28f94fabfd37c17a7847f7daffd2e2271e8c3eda0f0583d8', NULL, 1767225601);
INSERT INTO public.result VALUES ('2.25.8837227721023409792090277306629340357', '6d2e5daa41c124dc981f732d23582180', '2.25.5661515605363864105121689120747553304', '1.2.840.10008.5.1.4.1.1.66.4', '2.25.10557868987995116611949120802763076373', '6d2e5daa41c124dc981f732d23582180-aae03c6c-df08-5e/2.25.5661515605363864105121689120747553304.phantom-2d.seg.dcm', '2439ca1157f4e070219835fe6a46ed0006eba119aabd82ace24af132ffd2198e', NULL, 1767225602);
INSERT INTO public.result VALUES ('2.25.5903770258862060412051455156355535401', '6d2e5daa41c124dc981f732d23582180', '2.25.5661515605363864105121689120747553304', '1.2.840.10008.5.1.4.1.1.88.33', '2.25.6376576385598456030156468081956963193', '6d2e5daa41c124dc981f732d23582180-aae03c6c-df08-5e/2.25.5661515605363864105121689120747553304.phantom-2d.sr.dcm', '714d806ed07214a83c8afb67276a3784694d8848495dee61820f996ce17bf088', NULL, 1767225603);
INSERT INTO public.study VALUES ('2.25.5396382932274015525955331884816591856', '["MODALITY"]', 1767225600, 1767225600, 1, 1, 1, NULL, NULL, NULL, 'kept');
INSERT INTO public.study VALUES ('2.25.9935738715397086014180805190756362328', '["MODALITY"]', 1767225601, 1767225601, 1, 1, 1, NULL, NULL, NULL, 'kept');
INSERT INTO public.study VALUES ('2.25.8994520610213224487846322863742209928', '["MODALITY"]', 1767225602, 1767225602, 2, 2, 2, NULL, NULL, NULL, 'kept');
INSERT INTO public.study VALUES ('2.25.10486077662985063156487330612305117475', '["MODALITY"]', 1767225603, 1767225603, 1, 1, 1, NULL, NULL, NULL, 'kept');
INSERT INTO public.study VALUES ('2.25.7866402948949400154415594876279756089', '["MODALITY"]', 1767225604, 1767225604, 1, 1, 1, NULL, NULL, NULL, 'kept');
INSERT INTO public.study VALUES ('2.25.5671178964751022974650641509544460280', '["MODALITY"]', 1767225605, 1767225605, 1, 1, 1, NULL, NULL, NULL, 'kept');
INSERT INTO public.study VALUES ('2.25.7538266465799172821764949038644977139', '["MODALITY"]', 1767225606, 1767225606, 1, 1, 1, NULL, NULL, NULL, 'kept');
ALTER TABLE ONLY dbos.application_versions
    ADD CONSTRAINT application_versions_pkey PRIMARY KEY (version_id);
ALTER TABLE ONLY dbos.application_versions
    ADD CONSTRAINT application_versions_version_name_key UNIQUE (version_name);
ALTER TABLE ONLY dbos.dbos_migrations
    ADD CONSTRAINT dbos_migrations_pkey PRIMARY KEY (version);
ALTER TABLE ONLY dbos.event_dispatch_kv
    ADD CONSTRAINT event_dispatch_kv_pkey PRIMARY KEY (service_name, workflow_fn_name, key);
ALTER TABLE ONLY dbos.notifications
    ADD CONSTRAINT notifications_pkey PRIMARY KEY (message_uuid);
ALTER TABLE ONLY dbos.operation_outputs
    ADD CONSTRAINT operation_outputs_pkey PRIMARY KEY (workflow_uuid, function_id);
ALTER TABLE ONLY dbos.queues
    ADD CONSTRAINT queues_name_key UNIQUE (name);
ALTER TABLE ONLY dbos.queues
    ADD CONSTRAINT queues_pkey PRIMARY KEY (queue_id);
ALTER TABLE ONLY dbos.streams
    ADD CONSTRAINT streams_pkey PRIMARY KEY (workflow_uuid, key, "offset");
ALTER TABLE ONLY dbos.workflow_events_history
    ADD CONSTRAINT workflow_events_history_pkey PRIMARY KEY (workflow_uuid, function_id, key);
ALTER TABLE ONLY dbos.workflow_events
    ADD CONSTRAINT workflow_events_pkey PRIMARY KEY (workflow_uuid, key);
ALTER TABLE ONLY dbos.workflow_input
    ADD CONSTRAINT workflow_input_pkey PRIMARY KEY (workflow_uuid);
ALTER TABLE ONLY dbos.workflow_output
    ADD CONSTRAINT workflow_output_pkey PRIMARY KEY (workflow_uuid);
ALTER TABLE ONLY dbos.workflow_schedules
    ADD CONSTRAINT workflow_schedules_pkey PRIMARY KEY (schedule_id);
ALTER TABLE ONLY dbos.workflow_schedules
    ADD CONSTRAINT workflow_schedules_schedule_name_key UNIQUE (schedule_name);
ALTER TABLE ONLY dbos.workflow_status
    ADD CONSTRAINT workflow_status_pkey PRIMARY KEY (workflow_uuid);
ALTER TABLE ONLY public.medpipe_revision
    ADD CONSTRAINT medpipe_revision_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.audit
    ADD CONSTRAINT pk_audit PRIMARY KEY (number);
ALTER TABLE ONLY public.delivery
    ADD CONSTRAINT pk_delivery PRIMARY KEY (sop_instance_uid, destination);
ALTER TABLE ONLY public.executor
    ADD CONSTRAINT pk_executor PRIMARY KEY (executor_id);
ALTER TABLE ONLY public.image
    ADD CONSTRAINT pk_image PRIMARY KEY (job, number);
ALTER TABLE ONLY public.instance
    ADD CONSTRAINT pk_instance PRIMARY KEY (sop_instance_uid, digest);
ALTER TABLE ONLY public.job
    ADD CONSTRAINT pk_job PRIMARY KEY (id);
ALTER TABLE ONLY public.result
    ADD CONSTRAINT pk_result PRIMARY KEY (sop_instance_uid);
ALTER TABLE ONLY public.study
    ADD CONSTRAINT pk_study PRIMARY KEY (study_uid);
ALTER TABLE ONLY public.job
    ADD CONSTRAINT uq_job_study_uid UNIQUE (study_uid, bundle_hash, content);
CREATE INDEX idx_application_versions_owner_timestamp ON dbos.application_versions USING btree (application_name, version_timestamp DESC);
CREATE INDEX idx_application_versions_timestamp ON dbos.application_versions USING btree (version_timestamp DESC);
CREATE INDEX idx_operation_outputs_completed_at_function_name_v2 ON dbos.operation_outputs USING btree (completed_at_epoch_ms, function_name) INCLUDE (application_name);
CREATE INDEX idx_operation_outputs_retention ON dbos.operation_outputs USING btree (retention_timestamp);
CREATE INDEX idx_workflow_input_retention ON dbos.workflow_input USING btree (retention_timestamp);
CREATE INDEX idx_workflow_output_retention ON dbos.workflow_output USING btree (retention_timestamp);
CREATE INDEX idx_workflow_status_attributes ON dbos.workflow_status USING gin (attributes) WHERE (attributes IS NOT NULL);
CREATE INDEX idx_workflow_status_completed_at ON dbos.workflow_status USING btree (completed_at) WHERE (completed_at IS NOT NULL);
CREATE INDEX idx_workflow_status_deadline ON dbos.workflow_status USING btree (workflow_deadline_epoch_ms) WHERE ((status = ANY (ARRAY['ENQUEUED'::text, 'PENDING'::text, 'DELAYED'::text])) AND (workflow_deadline_epoch_ms IS NOT NULL));
CREATE INDEX idx_workflow_status_delayed ON dbos.workflow_status USING btree (delay_until_epoch_ms) WHERE (status = 'DELAYED'::text);
CREATE INDEX idx_workflow_status_failed ON dbos.workflow_status USING btree (status, created_at) WHERE (status = ANY (ARRAY['ERROR'::text, 'CANCELLED'::text, 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'::text]));
CREATE INDEX idx_workflow_status_forked_from ON dbos.workflow_status USING btree (forked_from) WHERE (forked_from IS NOT NULL);
CREATE INDEX idx_workflow_status_in_flight_v2 ON dbos.workflow_status USING btree (queue_name, status, priority, created_at) INCLUDE (application_name) WHERE (status = ANY (ARRAY['ENQUEUED'::text, 'PENDING'::text]));
CREATE INDEX idx_workflow_status_parent_workflow_id ON dbos.workflow_status USING btree (parent_workflow_id) WHERE (parent_workflow_id IS NOT NULL);
CREATE INDEX idx_workflow_status_partition_dequeue_v3 ON dbos.workflow_status USING btree (queue_name, status, queue_partition_key, priority, created_at, workflow_uuid) INCLUDE (application_name) WHERE ((status = ANY (ARRAY['ENQUEUED'::text, 'PENDING'::text])) AND (queue_partition_key IS NOT NULL));
CREATE INDEX idx_workflow_status_pending ON dbos.workflow_status USING btree (created_at) WHERE (status = 'PENDING'::text);
CREATE INDEX idx_workflow_status_rate_limited ON dbos.workflow_status USING btree (queue_name, started_at_epoch_ms) WHERE (rate_limited = true);
CREATE INDEX idx_workflow_status_schedule_name ON dbos.workflow_status USING btree (schedule_name) WHERE (schedule_name IS NOT NULL);
CREATE INDEX idx_workflow_status_started_at ON dbos.workflow_status USING btree (started_at_epoch_ms) WHERE (started_at_epoch_ms IS NOT NULL);
CREATE INDEX idx_workflow_topic ON dbos.notifications USING btree (destination_uuid, topic);
CREATE UNIQUE INDEX uq_application_versions_owner_version ON dbos.application_versions USING btree (application_name, version_name) WHERE (application_name IS NOT NULL);
CREATE UNIQUE INDEX uq_application_versions_unclaimed_version ON dbos.application_versions USING btree (version_name) WHERE (application_name IS NULL);
CREATE UNIQUE INDEX uq_workflow_status_dedup_id ON dbos.workflow_status USING btree (queue_name, deduplication_id) WHERE (deduplication_id IS NOT NULL);
CREATE INDEX workflow_status_created_at_index ON dbos.workflow_status USING btree (created_at);
CREATE INDEX ix_delivery_state ON public.delivery USING btree (state);
CREATE INDEX ix_instance_study_uid ON public.instance USING btree (study_uid);
CREATE INDEX ix_job_state ON public.job USING btree (state);
CREATE INDEX ix_job_study_uid ON public.job USING btree (study_uid);
CREATE INDEX ix_result_job ON public.result USING btree (job);
CREATE TRIGGER dbos_notifications_trigger AFTER INSERT ON dbos.notifications FOR EACH ROW EXECUTE FUNCTION dbos.notifications_function();
ALTER TABLE ONLY dbos.notifications
    ADD CONSTRAINT notifications_destination_uuid_fkey FOREIGN KEY (destination_uuid) REFERENCES dbos.workflow_status(workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE;
ALTER TABLE ONLY dbos.streams
    ADD CONSTRAINT streams_workflow_uuid_fkey FOREIGN KEY (workflow_uuid) REFERENCES dbos.workflow_status(workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE;
ALTER TABLE ONLY dbos.workflow_events_history
    ADD CONSTRAINT workflow_events_history_workflow_uuid_fkey FOREIGN KEY (workflow_uuid) REFERENCES dbos.workflow_status(workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE;
ALTER TABLE ONLY dbos.workflow_events
    ADD CONSTRAINT workflow_events_workflow_uuid_fkey FOREIGN KEY (workflow_uuid) REFERENCES dbos.workflow_status(workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE;
ALTER TABLE ONLY public.delivery
    ADD CONSTRAINT fk_delivery_sop_instance_uid FOREIGN KEY (sop_instance_uid) REFERENCES public.result(sop_instance_uid);
ALTER TABLE ONLY public.image
    ADD CONSTRAINT fk_image_job FOREIGN KEY (job) REFERENCES public.job(id);
ALTER TABLE ONLY public.result
    ADD CONSTRAINT fk_result_job FOREIGN KEY (job) REFERENCES public.job(id);
