BEGIN TRANSACTION;
CREATE TABLE application_versions (
    version_id TEXT NOT NULL PRIMARY KEY,
    version_name TEXT NOT NULL UNIQUE,
    version_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    created_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
, "application_name" TEXT DEFAULT NULL);
INSERT INTO "application_versions" VALUES('5487fbc1-b44a-5599-950d-99e7e9b092ee','medpipe-wf-1',1767225600000,1767225600000,'medpipe');
CREATE TABLE audit (
	number INTEGER NOT NULL, 
	at FLOAT NOT NULL, 
	who VARCHAR(128) NOT NULL, 
	what VARCHAR(64) NOT NULL, 
	study_uid VARCHAR(64), 
	detail JSON NOT NULL, 
	chain VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_audit PRIMARY KEY (number)
);
INSERT INTO "audit" VALUES(1,1767225601.0,'medpipe','job planned','2.25.5396382932274015525955331884816591856','{"job": "e3db260b1de6db2c694f050377143d97", "rule": "spots"}','0b8073808627261c04898ba1fcda905aff4ecece1ceb73e75d94bffe430cfcb8');
INSERT INTO "audit" VALUES(2,1767225602.0,'medpipe','job planned','2.25.9935738715397086014180805190756362328','{"job": "9eb1c17c26b4ada0632a0560763d7f23", "rule": "spots"}','0a892b2ddbd9755f83f94ad34e60945c63273edeff122538b475c8d02a9158b1');
INSERT INTO "audit" VALUES(3,1767225603.0,'medpipe','job planned','2.25.8994520610213224487846322863742209928','{"job": "74338a52565df60a79678f2dd77e6f5f", "rule": ""}','ff564f41f4cc1c147d92489239f0b32851660a8605747261c39fadf572a0c472');
INSERT INTO "audit" VALUES(4,1767225604.0,'medpipe','job planned','2.25.10486077662985063156487330612305117475','{"job": "6d2e5daa41c124dc981f732d23582180", "rule": "elsewhere"}','27dbb49d87f2718e45546f1e973c8859c954783ffb103942c45e7e1d0c3b0391');
INSERT INTO "audit" VALUES(5,1767225605.0,'medpipe','results published','2.25.5396382932274015525955331884816591856','{"job": "e3db260b1de6db2c694f050377143d97", "results": 2}','702c29947c31b37ae87f13d0344e6581c3ad0ca186dc83f5d83f06f7a8fc72a8');
INSERT INTO "audit" VALUES(6,1767225606.0,'medpipe','results published','2.25.10486077662985063156487330612305117475','{"job": "6d2e5daa41c124dc981f732d23582180", "results": 2}','67e9af5ada0fa5fcae51df35d5738cefdc6270e9bf855470e57f079d46f4b3d9');
INSERT INTO "audit" VALUES(7,1767225607.0,'medpipe','job planned','2.25.7866402948949400154415594876279756089','{"job": "09c923990bc0b83db5c2c4058581d23e", "rule": "spots"}','63b2ca3f86cf660a50d350af6bf3515430d3dbed98540cf12b2e48ee5bb75cdc');
INSERT INTO "audit" VALUES(8,1767225608.0,'medpipe','job planned','2.25.5671178964751022974650641509544460280','{"job": "ef82e6113617143d9ee4cfd712824fe8", "rule": "spots"}','b0266c4cf3644ce80b8c7bb9e9eb8cd4108050ce4058ea846bf232ae647bc72e');
INSERT INTO "audit" VALUES(9,1767225609.0,'medpipe','job planned','2.25.7538266465799172821764949038644977139','{"job": "7685d22d5323df2b93aabdc4403f2933", "rule": "spots"}','956d8c31141debb082c42176fd6a30315d5e1f03fe605e97f0e884b166aae65d');
CREATE TABLE dbos_migrations (version INTEGER NOT NULL PRIMARY KEY);
INSERT INTO "dbos_migrations" VALUES(125);
CREATE TABLE delivery (
	sop_instance_uid VARCHAR(64) NOT NULL, 
	destination VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	attempts INTEGER NOT NULL, 
	status INTEGER, 
	reason TEXT, 
	sent_at FLOAT, 
	committed_at FLOAT, 
	"transaction" VARCHAR(64), 
	CONSTRAINT pk_delivery PRIMARY KEY (sop_instance_uid, destination), 
	CONSTRAINT fk_delivery_sop_instance_uid FOREIGN KEY(sop_instance_uid) REFERENCES result (sop_instance_uid)
);
INSERT INTO "delivery" VALUES('2.25.6302816728260802685288825646748974792','PACS','confirmed',1,0,NULL,1767225600.0,1767225600.0,NULL);
INSERT INTO "delivery" VALUES('2.25.5864671694150134584690513886643475536','PACS','confirmed',1,0,NULL,1767225600.0,1767225601.0,NULL);
INSERT INTO "delivery" VALUES('2.25.8837227721023409792090277306629340357','AWAY','waiting',1,NULL,'PEER_UNREACHABLE: ORTHANC at 127.0.0.1:1 does not answer; check host, port and firewall',NULL,NULL,NULL);
INSERT INTO "delivery" VALUES('2.25.5903770258862060412051455156355535401','AWAY','waiting',1,NULL,'PEER_UNREACHABLE: ORTHANC at 127.0.0.1:1 does not answer; check host, port and firewall',NULL,NULL,NULL);
CREATE TABLE executor (
	executor_id VARCHAR(128) NOT NULL, 
	host VARCHAR(255) NOT NULL, 
	boot_id VARCHAR(36) NOT NULL, 
	pid INTEGER NOT NULL, 
	beat_at FLOAT NOT NULL, 
	CONSTRAINT pk_executor PRIMARY KEY (executor_id)
);
INSERT INTO "executor" VALUES('station-1-00000001','station','00000000-0000-0000-0000-000000000001',1,1767225600.0);
CREATE TABLE image (
	job VARCHAR(32) NOT NULL, 
	number INTEGER NOT NULL, 
	name VARCHAR(80) NOT NULL, 
	series_uid VARCHAR(64) NOT NULL, 
	outcome VARCHAR(16) NOT NULL, 
	reason TEXT, 
	lesions JSON NOT NULL, 
	CONSTRAINT pk_image PRIMARY KEY (job, number), 
	CONSTRAINT fk_image_job FOREIGN KEY(job) REFERENCES job (id)
);
INSERT INTO "image" VALUES('e3db260b1de6db2c694f050377143d97',0,'2.25.5776707995168826174634030756527967480','2.25.6236529344914363699722833259079787212','done',NULL,'{"SPOT": 1}');
INSERT INTO "image" VALUES('6d2e5daa41c124dc981f732d23582180',0,'2.25.5661515605363864105121689120747553304','2.25.8368008749841133260792352089724433705','done',NULL,'{"SPOT": 1}');
CREATE TABLE instance (
	sop_instance_uid VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	study_uid VARCHAR(64), 
	series_uid VARCHAR(64), 
	sop_class_uid VARCHAR(64) NOT NULL, 
	transfer_syntax VARCHAR(64) NOT NULL, 
	file VARCHAR(64) NOT NULL, 
	size BIGINT NOT NULL, 
	calling_ae VARCHAR(16) NOT NULL, 
	received_at FLOAT NOT NULL, 
	aside BOOLEAN NOT NULL, 
	reason TEXT, retention VARCHAR(16) DEFAULT 'kept' NOT NULL, 
	CONSTRAINT pk_instance PRIMARY KEY (sop_instance_uid, digest)
);
INSERT INTO "instance" VALUES('2.25.5776707995168826174634030756527967480','aaaa15431bfc89add7b862c55f0631228076fa7b9cd1c48e42adf6b3f7e61dbb','2.25.5396382932274015525955331884816591856','2.25.6236529344914363699722833259079787212','1.2.840.10008.5.1.4.1.1.77.1.5.1','1.2.840.10008.1.2.1','97cdffc4b6de8ed766f0606b56108351-aaaa15431bfc89ad',13220,'MODALITY',1767225600.0,0,NULL,'kept');
INSERT INTO "instance" VALUES('2.25.10615100495192608421266988486048205651','07185e2a2d1d7aede3d56fe86e730b0338c233bca4597b310aed67f7f172d9dc','2.25.9935738715397086014180805190756362328','2.25.6462813841342295059330142452809560997','1.2.840.10008.5.1.4.1.1.77.1.5.1','1.2.840.10008.1.2.1','6971deef1aee36bd1c9fe4e64b3277cf-07185e2a2d1d7aed',13224,'MODALITY',1767225601.0,0,NULL,'kept');
INSERT INTO "instance" VALUES('2.25.5683976885203704123397838264782910615','21086aeead7f67bae7c2b9b85df46f690fc53c71b768df02b237ecacedd04d5f','2.25.8994520610213224487846322863742209928','2.25.6082194670899519427596587434032083239','1.2.840.10008.5.1.4.1.1.77.1.5.1','1.2.840.10008.1.2.1','f3c91c5f3c445cd984f3e5f111604d45-21086aeead7f67ba',13220,'MODALITY',1767225602.0,0,NULL,'kept');
INSERT INTO "instance" VALUES('2.25.6472368776018310380312718189665193589','c68c805a08123f86228ef49493585d75875bebd31a7190620c4851fdbe59f6f6','2.25.8994520610213224487846322863742209928','2.25.6082194670899519427596587434032083239','1.2.840.10008.5.1.4.1.1.77.1.5.1','1.2.840.10008.1.2.1','e2b887131dbedd70ad1a68d41233259b-c68c805a08123f86',13224,'MODALITY',1767225603.0,0,NULL,'kept');
INSERT INTO "instance" VALUES('2.25.5661515605363864105121689120747553304','485437254ebd069b1620da44c80ee488ba848ad42ef1b398552835e6f8e8747f','2.25.10486077662985063156487330612305117475','2.25.8368008749841133260792352089724433705','1.2.840.10008.5.1.4.1.1.77.1.5.1','1.2.840.10008.1.2.1','4f8e369507f9e0d34d800254843ac79b-485437254ebd069b',13226,'MODALITY',1767225604.0,0,NULL,'kept');
INSERT INTO "instance" VALUES('2.25.9804688151158712067077446281677649524','c58b193d09edad59a033f87d47ac21c21ec3e3dc4fab66ada26b4696f9b3d17f','2.25.7866402948949400154415594876279756089','2.25.5905252782898048665305755759501920693','1.2.840.10008.5.1.4.1.1.77.1.5.1','1.2.840.10008.1.2.1','d32435a958a780fe825562ce292ca3b4-c58b193d09edad59',13220,'MODALITY',1767225605.0,0,NULL,'kept');
INSERT INTO "instance" VALUES('2.25.5958919366418962055632813450823677767','4ab7b59b7567206b77e497d0d81e9af57ff36f349aa9a49ee412e901cc0b7fd7','2.25.5671178964751022974650641509544460280','2.25.10270411887193212305319194588942335328','1.2.840.10008.5.1.4.1.1.77.1.5.1','1.2.840.10008.1.2.1','4175bd126f43c026535d7d9b5a5f9f78-4ab7b59b7567206b',13222,'MODALITY',1767225606.0,0,NULL,'kept');
INSERT INTO "instance" VALUES('2.25.8845058329354501560085406444481497211','bb487a99d3e289c8286275fae5c9941037d84f0984dcff39c3bed96bb6f8d7e0','2.25.7538266465799172821764949038644977139','2.25.6063260455628377606780157707338411490','1.2.840.10008.5.1.4.1.1.77.1.5.1','1.2.840.10008.1.2.1','ce2529af7e1a187a79ea87f7a95d36b5-bb487a99d3e289c8',13220,'MODALITY',1767225607.0,0,NULL,'kept');
CREATE TABLE job (
	id VARCHAR(32) NOT NULL, 
	study_uid VARCHAR(64) NOT NULL, 
	bundle VARCHAR(64) NOT NULL, 
	bundle_version VARCHAR(64) NOT NULL, 
	bundle_hash VARCHAR(64) NOT NULL, 
	content VARCHAR(64) NOT NULL, 
	instances JSON NOT NULL, 
	rule VARCHAR(100) NOT NULL, 
	priority INTEGER NOT NULL, 
	destinations JSON NOT NULL, 
	generation INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	step VARCHAR(16) NOT NULL, 
	attempts INTEGER NOT NULL, 
	reason TEXT, 
	seconds JSON NOT NULL, 
	received_at FLOAT NOT NULL, 
	created_at FLOAT NOT NULL, 
	updated_at FLOAT NOT NULL, 
	CONSTRAINT pk_job PRIMARY KEY (id), 
	CONSTRAINT uq_job_study_uid UNIQUE (study_uid, bundle_hash, content)
);
INSERT INTO "job" VALUES('e3db260b1de6db2c694f050377143d97','2.25.5396382932274015525955331884816591856','phantom-2d','1.0.0','a38a40b617695ac839dddc5287b2142196509cb67d537ccf707d74b5534df2b5','40e7c71a6d3d9ce15ef5b8123db4d8ab530c751d2a64c278aa8a60364c3c139b','["97cdffc4b6de8ed766f0606b56108351-aaaa15431bfc89ad"]','spots',100,'["PACS"]',1,'confirmed','',1,NULL,'{"network": 1.0}',1767225600.0,1767225600.0,1767225602.0);
INSERT INTO "job" VALUES('9eb1c17c26b4ada0632a0560763d7f23','2.25.9935738715397086014180805190756362328','phantom-2d','1.0.0','a38a40b617695ac839dddc5287b2142196509cb67d537ccf707d74b5534df2b5','9a9566a10994b4c87b43921b34e18f8e3d829f884be817ac4f92176989214c89','["6971deef1aee36bd1c9fe4e64b3277cf-07185e2a2d1d7aed"]','spots',100,'["PACS"]',1,'failed','',1,'STORAGE: no inference process can be started on this machine','{"network": 1.0}',1767225601.0,1767225601.0,1767225601.0);
INSERT INTO "job" VALUES('74338a52565df60a79678f2dd77e6f5f','2.25.8994520610213224487846322863742209928','','','','4fc848b02bfaeccbca81e229e2e03376b4675268b1a1c4de8553bbab42b4aaaf','[]','',100,'[]',1,'quarantined','',0,'TWO_PATIENTS: the study holds instances of two patient ids; correct it in the PACS','{"network": 1.0}',1767225602.0,1767225602.0,1767225600.0);
INSERT INTO "job" VALUES('6d2e5daa41c124dc981f732d23582180','2.25.10486077662985063156487330612305117475','phantom-2d','1.0.0','a38a40b617695ac839dddc5287b2142196509cb67d537ccf707d74b5534df2b5','3af17cf28820dd12d3f32e041b9f45bd018c2f4a275543ef0ce3f6cf68f27b77','["4f8e369507f9e0d34d800254843ac79b-485437254ebd069b"]','elsewhere',100,'["AWAY"]',1,'sending','send',1,NULL,'{"network": 1.0}',1767225603.0,1767225603.0,1767225603.0);
INSERT INTO "job" VALUES('09c923990bc0b83db5c2c4058581d23e','2.25.7866402948949400154415594876279756089','phantom-2d','1.0.0','a38a40b617695ac839dddc5287b2142196509cb67d537ccf707d74b5534df2b5','794bc6de0b46c86f91111a69ae0ab42998ab236b6a276ac42b38c9a398370e20','["d32435a958a780fe825562ce292ca3b4-c58b193d09edad59"]','spots',100,'["PACS"]',1,'running','process',1,NULL,'{"network": 1.0}',1767225604.0,1767225604.0,1767225606.0);
INSERT INTO "job" VALUES('ef82e6113617143d9ee4cfd712824fe8','2.25.5671178964751022974650641509544460280','phantom-2d','1.0.0','a38a40b617695ac839dddc5287b2142196509cb67d537ccf707d74b5534df2b5','d94496090b1615b4abe470117d0ebeccc692459c009b800c085cd26590a36837','["4175bd126f43c026535d7d9b5a5f9f78-4ab7b59b7567206b"]','spots',100,'["PACS"]',1,'queued','',0,NULL,'{"network": 1.0}',1767225605.0,1767225605.0,1767225604.0);
INSERT INTO "job" VALUES('7685d22d5323df2b93aabdc4403f2933','2.25.7538266465799172821764949038644977139','phantom-2d','1.0.0','a38a40b617695ac839dddc5287b2142196509cb67d537ccf707d74b5534df2b5','b59a2866bbf389a61584b59d16f3a1f7d4bc1a203b3e0ee2efffdb503b96bf3e','["ce2529af7e1a187a79ea87f7a95d36b5-bb487a99d3e289c8"]','spots',100,'["PACS"]',1,'queued','',0,NULL,'{"network": 1.0}',1767225606.0,1767225606.0,1767225605.0);
CREATE TABLE medpipe_revision (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT medpipe_revision_pkc PRIMARY KEY (version_num)
);
INSERT INTO "medpipe_revision" VALUES('0002');
CREATE TABLE notifications (
    message_uuid TEXT NOT NULL DEFAULT (hex(randomblob(16))) PRIMARY KEY,
    destination_uuid TEXT NOT NULL,
    topic TEXT,
    message TEXT NOT NULL,
    created_at_epoch_ms INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000), "serialization" TEXT DEFAULT NULL, "consumed" BOOLEAN NOT NULL DEFAULT FALSE, consumed_by_function_id INTEGER,
    FOREIGN KEY (destination_uuid) REFERENCES workflow_status(workflow_uuid) 
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE "operation_outputs" (
    workflow_uuid TEXT NOT NULL,
    function_id INTEGER NOT NULL,
    function_name TEXT NOT NULL DEFAULT '',
    output TEXT,
    error TEXT,
    child_workflow_id TEXT,
    started_at_epoch_ms INTEGER,
    completed_at_epoch_ms INTEGER,
    serialization TEXT,
    application_name TEXT DEFAULT NULL,
    retention_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    PRIMARY KEY (workflow_uuid, function_id)
);
INSERT INTO "operation_outputs" VALUES('job:9eb1c17c26b4ada0632a0560763d7f23:g1:a1',1,'process','"failed"',NULL,NULL,1767225601000,1767225600000,'portable_json','medpipe',1767225600000);
INSERT INTO "operation_outputs" VALUES('job:e3db260b1de6db2c694f050377143d97:g1:a1',1,'process','"sending"',NULL,NULL,1767225600000,1767225601000,'portable_json','medpipe',1767225601000);
INSERT INTO "operation_outputs" VALUES('deliver:e3db260b1de6db2c694f050377143d97:g1:PACS:a1',1,'send','"sent"',NULL,NULL,1767225602000,1767225602000,'portable_json','medpipe',1767225602000);
INSERT INTO "operation_outputs" VALUES('confirm:e3db260b1de6db2c694f050377143d97:g1:PACS:a100',1,'ask','"confirmed"',NULL,NULL,1767225604000,1767225603000,'portable_json','medpipe',1767225603000);
INSERT INTO "operation_outputs" VALUES('job:6d2e5daa41c124dc981f732d23582180:g1:a1',1,'process','"sending"',NULL,NULL,1767225603000,1767225604000,'portable_json','medpipe',1767225604000);
INSERT INTO "operation_outputs" VALUES('deliver:6d2e5daa41c124dc981f732d23582180:g1:AWAY:a1',1,'send','"sending"',NULL,NULL,1767225605000,1767225605000,'portable_json','medpipe',1767225605000);
CREATE TABLE queues (
    queue_id TEXT PRIMARY KEY DEFAULT (hex(randomblob(16))),
    name TEXT NOT NULL UNIQUE,
    concurrency INTEGER,
    worker_concurrency INTEGER,
    rate_limit_max INTEGER,
    rate_limit_period_sec REAL,
    priority_enabled BOOLEAN NOT NULL DEFAULT FALSE,
    partition_queue BOOLEAN NOT NULL DEFAULT FALSE,
    polling_interval_sec REAL NOT NULL DEFAULT 1.0,
    created_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    updated_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
, "application_name" TEXT DEFAULT NULL, "partition_concurrency" INTEGER DEFAULT NULL, "partition_worker_concurrency" INTEGER DEFAULT NULL, "partition_rate_limit_max" INTEGER DEFAULT NULL, "partition_rate_limit_period_sec" REAL DEFAULT NULL);
INSERT INTO "queues" VALUES('2d392fd6-e346-5654-a029-e09a50b42720','gpu',NULL,1,NULL,NULL,1,0,0.5,1767225600000,1767225600000,'medpipe',NULL,NULL,NULL,NULL);
INSERT INTO "queues" VALUES('9d111c6f-b4b4-5fc8-8929-7b1d24dd6939','send',NULL,8,NULL,NULL,1,0,0.5,1767225601000,1767225601000,'medpipe',NULL,NULL,NULL,NULL);
CREATE TABLE result (
	sop_instance_uid VARCHAR(64) NOT NULL, 
	job VARCHAR(32) NOT NULL, 
	image VARCHAR(80), 
	sop_class_uid VARCHAR(64) NOT NULL, 
	series_uid VARCHAR(64) NOT NULL, 
	file TEXT NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	superseded_by VARCHAR(32), 
	created_at FLOAT NOT NULL, 
	CONSTRAINT pk_result PRIMARY KEY (sop_instance_uid), 
	CONSTRAINT fk_result_job FOREIGN KEY(job) REFERENCES job (id)
);
INSERT INTO "result" VALUES('2.25.6302816728260802685288825646748974792','e3db260b1de6db2c694f050377143d97','2.25.5776707995168826174634030756527967480','1.2.840.10008.5.1.4.1.1.66.4','2.25.9120058430109933041479045878298800869','e3db260b1de6db2c694f050377143d97-61c4843c-f489-53/2.25.5776707995168826174634030756527967480.phantom-2d.seg.dcm','737fa2b80bee9eb28aafff11883e51ce2919fa4ee96733b21241de656b360850',NULL,1767225600.0);
INSERT INTO "result" VALUES('2.25.5864671694150134584690513886643475536','e3db260b1de6db2c694f050377143d97','2.25.5776707995168826174634030756527967480','1.2.840.10008.5.1.4.1.1.88.33','2.25.7866089673320167140079626049637347024','e3db260b1de6db2c694f050377143d97-61c4843c-f489-53/2.25.5776707995168826174634030756527967480.phantom-2d.sr.dcm','16aec3177b45a74c28f94fabfd37c17a7847f7daffd2e2271e8c3eda0f0583d8',NULL,1767225601.0);
INSERT INTO "result" VALUES('2.25.8837227721023409792090277306629340357','6d2e5daa41c124dc981f732d23582180','2.25.5661515605363864105121689120747553304','1.2.840.10008.5.1.4.1.1.66.4','2.25.10557868987995116611949120802763076373','6d2e5daa41c124dc981f732d23582180-aae03c6c-df08-5e/2.25.5661515605363864105121689120747553304.phantom-2d.seg.dcm','2439ca1157f4e070219835fe6a46ed0006eba119aabd82ace24af132ffd2198e',NULL,1767225602.0);
INSERT INTO "result" VALUES('2.25.5903770258862060412051455156355535401','6d2e5daa41c124dc981f732d23582180','2.25.5661515605363864105121689120747553304','1.2.840.10008.5.1.4.1.1.88.33','2.25.6376576385598456030156468081956963193','6d2e5daa41c124dc981f732d23582180-aae03c6c-df08-5e/2.25.5661515605363864105121689120747553304.phantom-2d.sr.dcm','714d806ed07214a83c8afb67276a3784694d8848495dee61820f996ce17bf088',NULL,1767225603.0);
CREATE TABLE streams (
    workflow_uuid TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    "offset" INTEGER NOT NULL, function_id INTEGER NOT NULL DEFAULT 0, "serialization" TEXT DEFAULT NULL,
    PRIMARY KEY (workflow_uuid, key, "offset"),
    FOREIGN KEY (workflow_uuid) REFERENCES workflow_status(workflow_uuid) 
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE study (
	study_uid VARCHAR(64) NOT NULL, 
	calling_aes JSON NOT NULL, 
	first_at FLOAT NOT NULL, 
	last_at FLOAT NOT NULL, 
	instances INTEGER NOT NULL, 
	generation INTEGER NOT NULL, 
	settled INTEGER NOT NULL, 
	reason TEXT, 
	retrieval VARCHAR(32), 
	retrieval_at FLOAT, 
	retention VARCHAR(16) NOT NULL, 
	CONSTRAINT pk_study PRIMARY KEY (study_uid)
);
INSERT INTO "study" VALUES('2.25.5396382932274015525955331884816591856','["MODALITY"]',1767225600.0,1767225600.0,1,1,1,NULL,NULL,NULL,'kept');
INSERT INTO "study" VALUES('2.25.9935738715397086014180805190756362328','["MODALITY"]',1767225601.0,1767225601.0,1,1,1,NULL,NULL,NULL,'kept');
INSERT INTO "study" VALUES('2.25.8994520610213224487846322863742209928','["MODALITY"]',1767225602.0,1767225602.0,2,2,2,NULL,NULL,NULL,'kept');
INSERT INTO "study" VALUES('2.25.10486077662985063156487330612305117475','["MODALITY"]',1767225603.0,1767225603.0,1,1,1,NULL,NULL,NULL,'kept');
INSERT INTO "study" VALUES('2.25.7866402948949400154415594876279756089','["MODALITY"]',1767225604.0,1767225604.0,1,1,1,NULL,NULL,NULL,'kept');
INSERT INTO "study" VALUES('2.25.5671178964751022974650641509544460280','["MODALITY"]',1767225605.0,1767225605.0,1,1,1,NULL,NULL,NULL,'kept');
INSERT INTO "study" VALUES('2.25.7538266465799172821764949038644977139','["MODALITY"]',1767225606.0,1767225606.0,1,1,1,NULL,NULL,NULL,'kept');
CREATE TABLE workflow_events (
    workflow_uuid TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL, "serialization" TEXT DEFAULT NULL,
    PRIMARY KEY (workflow_uuid, key),
    FOREIGN KEY (workflow_uuid) REFERENCES workflow_status(workflow_uuid) 
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE workflow_events_history (
    workflow_uuid TEXT NOT NULL,
    function_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL, "serialization" TEXT DEFAULT NULL,
    PRIMARY KEY (workflow_uuid, function_id, key),
    FOREIGN KEY (workflow_uuid) REFERENCES workflow_status(workflow_uuid)
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE workflow_input (
    workflow_uuid TEXT NOT NULL PRIMARY KEY,
    inputs TEXT,
    retention_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
);
INSERT INTO "workflow_input" VALUES('job:e3db260b1de6db2c694f050377143d97:g1:a1','{"namedArgs":{},"positionalArgs":["e3db260b1de6db2c694f050377143d97",1,1]}',1767225600000);
INSERT INTO "workflow_input" VALUES('job:9eb1c17c26b4ada0632a0560763d7f23:g1:a1','{"namedArgs":{},"positionalArgs":["9eb1c17c26b4ada0632a0560763d7f23",1,1]}',1767225601000);
INSERT INTO "workflow_input" VALUES('job:6d2e5daa41c124dc981f732d23582180:g1:a1','{"namedArgs":{},"positionalArgs":["6d2e5daa41c124dc981f732d23582180",1,1]}',1767225602000);
INSERT INTO "workflow_input" VALUES('deliver:e3db260b1de6db2c694f050377143d97:g1:PACS:a1','{"namedArgs":{},"positionalArgs":["e3db260b1de6db2c694f050377143d97","PACS",1,1]}',1767225603000);
INSERT INTO "workflow_input" VALUES('confirm:e3db260b1de6db2c694f050377143d97:g1:PACS:a100','{"namedArgs":{},"positionalArgs":["e3db260b1de6db2c694f050377143d97","PACS",1,100]}',1767225604000);
INSERT INTO "workflow_input" VALUES('deliver:6d2e5daa41c124dc981f732d23582180:g1:AWAY:a1','{"namedArgs":{},"positionalArgs":["6d2e5daa41c124dc981f732d23582180","AWAY",1,1]}',1767225605000);
INSERT INTO "workflow_input" VALUES('deliver:6d2e5daa41c124dc981f732d23582180:g1:AWAY:a2','{"namedArgs":{},"positionalArgs":["6d2e5daa41c124dc981f732d23582180","AWAY",1,2]}',1767225606000);
INSERT INTO "workflow_input" VALUES('job:09c923990bc0b83db5c2c4058581d23e:g1:a1','{"namedArgs":{},"positionalArgs":["09c923990bc0b83db5c2c4058581d23e",1,1]}',1767225607000);
INSERT INTO "workflow_input" VALUES('job:ef82e6113617143d9ee4cfd712824fe8:g1:a1','{"namedArgs":{},"positionalArgs":["ef82e6113617143d9ee4cfd712824fe8",1,1]}',1767225608000);
INSERT INTO "workflow_input" VALUES('job:7685d22d5323df2b93aabdc4403f2933:g1:a1','{"namedArgs":{},"positionalArgs":["7685d22d5323df2b93aabdc4403f2933",1,1]}',1767225609000);
CREATE TABLE workflow_output (
    workflow_uuid TEXT NOT NULL PRIMARY KEY,
    output TEXT,
    error TEXT,
    retention_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
);
INSERT INTO "workflow_output" VALUES('job:9eb1c17c26b4ada0632a0560763d7f23:g1:a1','"failed"',NULL,1767225600000);
INSERT INTO "workflow_output" VALUES('job:e3db260b1de6db2c694f050377143d97:g1:a1','"sending"',NULL,1767225601000);
INSERT INTO "workflow_output" VALUES('deliver:e3db260b1de6db2c694f050377143d97:g1:PACS:a1','"sent"',NULL,1767225602000);
INSERT INTO "workflow_output" VALUES('confirm:e3db260b1de6db2c694f050377143d97:g1:PACS:a100','"confirmed"',NULL,1767225603000);
INSERT INTO "workflow_output" VALUES('job:6d2e5daa41c124dc981f732d23582180:g1:a1','"sending"',NULL,1767225604000);
INSERT INTO "workflow_output" VALUES('deliver:6d2e5daa41c124dc981f732d23582180:g1:AWAY:a1','"sending"',NULL,1767225605000);
CREATE TABLE workflow_schedules (
    schedule_id TEXT PRIMARY KEY,
    schedule_name TEXT NOT NULL UNIQUE,
    workflow_name TEXT NOT NULL,
    workflow_class_name TEXT,
    schedule TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'ACTIVE',
    context TEXT NOT NULL
, "last_fired_at" TEXT DEFAULT NULL, "automatic_backfill" BOOLEAN NOT NULL DEFAULT FALSE, "cron_timezone" TEXT DEFAULT NULL, "queue_name" TEXT DEFAULT NULL, "application_name" TEXT DEFAULT NULL);
CREATE TABLE workflow_status (
    workflow_uuid TEXT PRIMARY KEY,
    status TEXT,
    name TEXT,
    authenticated_user TEXT,
    assumed_role TEXT,
    authenticated_roles TEXT,
    request TEXT,
    output TEXT,
    error TEXT,
    executor_id TEXT,
    created_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    updated_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    application_version TEXT,
    application_id TEXT,
    class_name TEXT DEFAULT NULL,
    config_name TEXT DEFAULT NULL,
    recovery_attempts INTEGER DEFAULT 0,
    queue_name TEXT,
    workflow_timeout_ms INTEGER,
    workflow_deadline_epoch_ms INTEGER,
    inputs TEXT,
    started_at_epoch_ms INTEGER,
    deduplication_id TEXT,
    priority INTEGER NOT NULL DEFAULT 0
, queue_partition_key TEXT, forked_from TEXT, "owner_xid" TEXT DEFAULT NULL, "parent_workflow_id" TEXT DEFAULT NULL, "serialization" TEXT DEFAULT NULL, "delay_until_epoch_ms" BIGINT DEFAULT NULL, "was_forked_from" BOOLEAN NOT NULL DEFAULT FALSE, "rate_limited" BOOLEAN NOT NULL DEFAULT FALSE, "completed_at" BIGINT, "attributes" TEXT, "schedule_name" TEXT, "debounce_deadline_epoch_ms" BIGINT DEFAULT NULL, "is_debounced" BOOLEAN NOT NULL DEFAULT FALSE, "application_name" TEXT DEFAULT NULL, "creator_xid" TEXT DEFAULT NULL);
INSERT INTO "workflow_status" VALUES('job:e3db260b1de6db2c694f050377143d97:g1:a1','SUCCESS','job',NULL,NULL,NULL,NULL,NULL,NULL,'station-2-00000002',1767225600000,1767225601000,'medpipe-wf-1',NULL,NULL,NULL,1,'gpu',NULL,NULL,NULL,1767225600000,NULL,100,NULL,NULL,NULL,NULL,'portable_json',NULL,0,0,1767225601000,'null',NULL,NULL,0,'medpipe','13f9ceb7-3eab-5ff6-ac57-a725f239f7df');
INSERT INTO "workflow_status" VALUES('job:9eb1c17c26b4ada0632a0560763d7f23:g1:a1','SUCCESS','job',NULL,NULL,NULL,NULL,NULL,NULL,'station-2-00000002',1767225601000,1767225600000,'medpipe-wf-1',NULL,NULL,NULL,1,'gpu',NULL,NULL,NULL,1767225601000,NULL,100,NULL,NULL,NULL,NULL,'portable_json',NULL,0,0,1767225600000,'null',NULL,NULL,0,'medpipe','7c9c627b-3c58-5a64-8de6-7afe2941a2f9');
INSERT INTO "workflow_status" VALUES('job:6d2e5daa41c124dc981f732d23582180:g1:a1','SUCCESS','job',NULL,NULL,NULL,NULL,NULL,NULL,'station-2-00000002',1767225602000,1767225604000,'medpipe-wf-1',NULL,NULL,NULL,1,'gpu',NULL,NULL,NULL,1767225603000,NULL,100,NULL,NULL,NULL,NULL,'portable_json',NULL,0,0,1767225604000,'null',NULL,NULL,0,'medpipe','09d9875c-357f-565e-b498-59bfcc67cc6f');
INSERT INTO "workflow_status" VALUES('deliver:e3db260b1de6db2c694f050377143d97:g1:PACS:a1','SUCCESS','deliver',NULL,NULL,NULL,NULL,NULL,NULL,'station-2-00000002',1767225603000,1767225602000,'medpipe-wf-1',NULL,NULL,NULL,1,'send',NULL,NULL,NULL,1767225602000,NULL,100,NULL,NULL,NULL,NULL,'portable_json',NULL,0,0,1767225602000,'null',NULL,NULL,0,'medpipe','96da4c69-bd73-5bc7-9c6b-40e4e7e97219');
INSERT INTO "workflow_status" VALUES('confirm:e3db260b1de6db2c694f050377143d97:g1:PACS:a100','SUCCESS','confirm',NULL,NULL,NULL,NULL,NULL,NULL,'station-2-00000002',1767225604000,1767225603000,'medpipe-wf-1',NULL,NULL,NULL,1,'send',NULL,NULL,NULL,1767225604000,NULL,100,NULL,NULL,NULL,NULL,'portable_json',NULL,0,0,1767225603000,'null',NULL,NULL,0,'medpipe','53ce6713-a4c1-5735-8c86-3286e5d1f7c2');
INSERT INTO "workflow_status" VALUES('deliver:6d2e5daa41c124dc981f732d23582180:g1:AWAY:a1','SUCCESS','deliver',NULL,NULL,NULL,NULL,NULL,NULL,'station-2-00000002',1767225605000,1767225605000,'medpipe-wf-1',NULL,NULL,NULL,1,'send',NULL,NULL,NULL,1767225605000,NULL,100,NULL,NULL,NULL,NULL,'portable_json',NULL,0,0,1767225605000,'null',NULL,NULL,0,'medpipe','de43178a-d6eb-5a27-8c67-94fe46a4a9e9');
INSERT INTO "workflow_status" VALUES('deliver:6d2e5daa41c124dc981f732d23582180:g1:AWAY:a2','DELAYED','deliver',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1767225606000,1767225605000,'medpipe-wf-1',NULL,NULL,NULL,0,'send',NULL,NULL,NULL,NULL,NULL,100,NULL,NULL,NULL,NULL,'portable_json',1767225600000,0,0,NULL,'null',NULL,NULL,0,'medpipe','5936d85f-f7d4-55f3-9f49-2471b7875b4a');
INSERT INTO "workflow_status" VALUES('job:09c923990bc0b83db5c2c4058581d23e:g1:a1','PENDING','job',NULL,NULL,NULL,NULL,NULL,NULL,'station-1-00000001',1767225607000,1767225606000,'medpipe-wf-1',NULL,NULL,NULL,1,'gpu',NULL,NULL,NULL,NULL,NULL,100,NULL,NULL,'786a5cc9-3447-59ed-bb37-5240d96dbafe',NULL,'portable_json',NULL,0,0,NULL,'null',NULL,NULL,0,'medpipe','3d64a7ef-ea0a-5de1-bfcc-abb9f060fdd2');
INSERT INTO "workflow_status" VALUES('job:ef82e6113617143d9ee4cfd712824fe8:g1:a1','ENQUEUED','job',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1767225608000,1767225607000,'medpipe-wf-1',NULL,NULL,NULL,0,'gpu',NULL,NULL,NULL,NULL,NULL,100,NULL,NULL,NULL,NULL,'portable_json',NULL,0,0,NULL,'null',NULL,NULL,0,'medpipe','e9219108-bc8d-5004-af77-80abb1dcbee8');
INSERT INTO "workflow_status" VALUES('job:7685d22d5323df2b93aabdc4403f2933:g1:a1','ENQUEUED','job',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1767225609000,1767225608000,'medpipe-wf-1',NULL,NULL,NULL,0,'gpu',NULL,NULL,NULL,NULL,NULL,100,NULL,NULL,NULL,NULL,'portable_json',NULL,0,0,NULL,'null',NULL,NULL,0,'medpipe','8821501b-e557-5979-aba6-6044d7d8f9ef');
CREATE INDEX ix_instance_study_uid ON instance (study_uid);
CREATE INDEX ix_job_state ON job (state);
CREATE INDEX ix_job_study_uid ON job (study_uid);
CREATE INDEX ix_result_job ON result (job);
CREATE INDEX ix_delivery_state ON delivery (state);
CREATE INDEX workflow_status_created_at_index ON workflow_status (created_at);
CREATE INDEX idx_workflow_topic ON notifications (destination_uuid, topic);
CREATE INDEX "idx_workflow_status_delayed" ON "workflow_status" ("delay_until_epoch_ms") WHERE status = 'DELAYED';
CREATE INDEX "idx_workflow_status_forked_from" ON "workflow_status" ("forked_from") WHERE "forked_from" IS NOT NULL;
CREATE INDEX "idx_workflow_status_parent_workflow_id" ON "workflow_status" ("parent_workflow_id") WHERE "parent_workflow_id" IS NOT NULL;
CREATE UNIQUE INDEX "uq_workflow_status_dedup_id" ON "workflow_status" ("queue_name", "deduplication_id") WHERE "deduplication_id" IS NOT NULL;
CREATE INDEX "idx_workflow_status_pending" ON "workflow_status" ("created_at") WHERE "status" = 'PENDING';
CREATE INDEX "idx_workflow_status_failed" ON "workflow_status" ("status", "created_at") WHERE "status" IN ('ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED');
CREATE INDEX "idx_workflow_status_rate_limited" ON "workflow_status" ("queue_name", "started_at_epoch_ms") WHERE "rate_limited" = TRUE;
CREATE INDEX "idx_workflow_status_completed_at" ON "workflow_status" ("completed_at") WHERE "completed_at" IS NOT NULL;
CREATE INDEX "idx_workflow_status_started_at" ON "workflow_status" ("started_at_epoch_ms") WHERE "started_at_epoch_ms" IS NOT NULL;
CREATE INDEX "idx_workflow_status_schedule_name" ON "workflow_status" ("schedule_name") WHERE "schedule_name" IS NOT NULL;
CREATE UNIQUE INDEX "uq_application_versions_owner_version"
    ON application_versions ("application_name", "version_name")
    WHERE "application_name" IS NOT NULL;
CREATE UNIQUE INDEX "uq_application_versions_unclaimed_version"
    ON application_versions ("version_name")
    WHERE "application_name" IS NULL;
CREATE INDEX idx_workflow_input_retention
    ON workflow_input (retention_timestamp);
CREATE INDEX idx_workflow_output_retention
    ON workflow_output (retention_timestamp);
CREATE INDEX idx_operation_outputs_retention
    ON operation_outputs (retention_timestamp);
CREATE INDEX "idx_workflow_status_in_flight_v2" ON "workflow_status" ("queue_name", "status", "priority", "created_at", "application_name") WHERE "status" IN ('ENQUEUED', 'PENDING');
CREATE INDEX "idx_workflow_status_partition_dequeue_v3" ON "workflow_status" ("queue_name", "status", "queue_partition_key", "priority", "created_at", "workflow_uuid", "application_name") WHERE "status" IN ('ENQUEUED', 'PENDING') AND "queue_partition_key" IS NOT NULL;
CREATE INDEX "idx_operation_outputs_completed_at_function_name_v2" ON "operation_outputs" ("completed_at_epoch_ms", "function_name", "application_name");
CREATE INDEX "idx_workflow_status_deadline" ON "workflow_status" ("workflow_deadline_epoch_ms") WHERE "status" IN ('ENQUEUED', 'PENDING', 'DELAYED') AND "workflow_deadline_epoch_ms" IS NOT NULL;
CREATE INDEX "idx_application_versions_timestamp" ON "application_versions" ("version_timestamp" DESC);
CREATE INDEX "idx_application_versions_owner_timestamp" ON "application_versions" ("application_name", "version_timestamp" DESC);
COMMIT;
