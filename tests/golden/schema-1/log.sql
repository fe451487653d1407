BEGIN TRANSACTION;
CREATE TABLE "adapters" (
	task VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	run_id VARCHAR NOT NULL, 
	artifact VARCHAR NOT NULL, 
	control VARCHAR NOT NULL, 
	method VARCHAR NOT NULL, 
	base_digest VARCHAR NOT NULL, 
	quantisation VARCHAR NOT NULL, 
	prompt VARCHAR NOT NULL, 
	temperature FLOAT NOT NULL, 
	status VARCHAR NOT NULL, 
	registered_at VARCHAR NOT NULL, 
	PRIMARY KEY (task, name)
);
INSERT INTO "adapters" VALUES('tickets','tickets-v1',20,'tickets-run-1','sha256-fb3259fabe94efacddd096bc0b6a67dcd41c9b35751af86b6c3d9cd677b06fa1','sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060','qlora','sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','nf4','zero-shot@1',1.2,'retired','2026-01-05T09:20:00.000000+00:00');
INSERT INTO "adapters" VALUES('tickets','tickets-v2',29,'tickets-run-2','sha256-c01b6f7410452e554ada55c08343d5255509b4e4c3387374a681b18ec212eeee','sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354','qlora','sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','nf4','zero-shot@1',1.2,'rejected','2026-01-05T09:29:00.000000+00:00');
CREATE TABLE "counters" (
	task VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	value INTEGER NOT NULL, 
	PRIMARY KEY (task, name, "key")
);
INSERT INTO "counters" VALUES('tickets','received','exam',2);
INSERT INTO "counters" VALUES('tickets','open','uncertain',3);
INSERT INTO "counters" VALUES('tickets','queue','exam',1);
INSERT INTO "counters" VALUES('tickets','received','train',7);
INSERT INTO "counters" VALUES('tickets','open','misclassified',1);
INSERT INTO "counters" VALUES('tickets','queue','train',3);
INSERT INTO "counters" VALUES('tickets','answered','general',9);
INSERT INTO "counters" VALUES('tickets','train_labels','billing',1);
INSERT INTO "counters" VALUES('tickets','labelled','billing',1);
INSERT INTO "counters" VALUES('tickets','disagreed','general',1);
INSERT INTO "counters" VALUES('tickets','labelled','urgent',0);
INSERT INTO "counters" VALUES('tickets','audit_labels','urgent',0);
INSERT INTO "counters" VALUES('tickets','exam_labels','urgent',0);
CREATE TABLE cursors (
                name TEXT PRIMARY KEY,
                position INTEGER NOT NULL,
                version INTEGER NOT NULL
            );
INSERT INTO "cursors" VALUES('read-tables',39,2);
CREATE TABLE "deployments" (
	task VARCHAR NOT NULL, 
	answerer VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	previous VARCHAR NOT NULL, 
	artifact VARCHAR NOT NULL, 
	run_id VARCHAR NOT NULL, 
	forced BOOLEAN NOT NULL, 
	reason VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	at VARCHAR NOT NULL, 
	PRIMARY KEY (task)
);
INSERT INTO "deployments" VALUES('tickets','zero-shot@1','prompt','tickets-v1','','',0,'worse',38,'2026-01-05T09:05:00.000000+00:00');
CREATE TABLE "evaluations" (
	evaluation_id VARCHAR NOT NULL, 
	run_id VARCHAR NOT NULL, 
	task VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	candidate VARCHAR NOT NULL, 
	champion VARCHAR NOT NULL, 
	baseline VARCHAR NOT NULL, 
	exam INTEGER NOT NULL, 
	hard_exam INTEGER NOT NULL, 
	look INTEGER NOT NULL, 
	artifact VARCHAR NOT NULL, 
	results JSON NOT NULL, 
	paired JSON NOT NULL, 
	forgetting JSON, 
	verdict VARCHAR NOT NULL, 
	checks JSON NOT NULL, 
	summary VARCHAR NOT NULL, 
	seconds FLOAT NOT NULL, 
	reason VARCHAR NOT NULL, 
	started_at VARCHAR, 
	ended_at VARCHAR, 
	PRIMARY KEY (evaluation_id)
);
INSERT INTO "evaluations" VALUES('tickets-v1-look-1','tickets-run-1','tickets',21,'evaluated',1,'tickets-v1','zero-shot@1','zero-shot@1',40,6,1,'sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060','[{"answerer":"zero-shot@1","kind":"prompt","decoding":"score","n":40,"correct":20,"accuracy":0.5,"low":0.4,"high":0.6,"recall":{"billing":0.5},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3,"support":{}},{"answerer":"tickets-v1","kind":"adapter","decoding":"score","n":40,"correct":32,"accuracy":0.8,"low":0.7000000000000001,"high":0.9,"recall":{"billing":0.8},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3,"support":{}}]','[{"opponent":"zero-shot@1","decoding":"score","n":40,"gained":14,"lost":2,"difference":0.3,"low":0.1,"high":0.5,"p_value":0.004}]',NULL,'promote','[{"name":"better than baseline","outcome":"pass","detail":"+30 points","value":0.3,"limit":null}]','tickets-v1 gains 30 points over zero-shot@1',12.0,'','2026-01-05T09:21:00.000000+00:00','2026-01-05T09:22:00.000000+00:00');
INSERT INTO "evaluations" VALUES('tickets-v2-look-1','tickets-run-2','tickets',30,'evaluated',1,'tickets-v2','tickets-v1','zero-shot@1',40,6,1,'sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354','[{"answerer":"zero-shot@1","kind":"prompt","decoding":"score","n":40,"correct":20,"accuracy":0.5,"low":0.4,"high":0.6,"recall":{"billing":0.5},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3,"support":{}},{"answerer":"tickets-v2","kind":"adapter","decoding":"score","n":40,"correct":16,"accuracy":0.4,"low":0.30000000000000004,"high":0.5,"recall":{"billing":0.4},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3,"support":{}}]','[{"opponent":"zero-shot@1","decoding":"score","n":40,"gained":14,"lost":2,"difference":0.3,"low":0.1,"high":0.5,"p_value":0.004}]',NULL,'reject','[{"name":"better than baseline","outcome":"pass","detail":"+30 points","value":0.3,"limit":null}]','tickets-v2 gains 30 points over zero-shot@1',12.0,'','2026-01-05T09:30:00.000000+00:00','2026-01-05T09:31:00.000000+00:00');
CREATE TABLE events (
                position INTEGER PRIMARY KEY AUTOINCREMENT,
                event_id TEXT NOT NULL UNIQUE,
                stream TEXT NOT NULL,
                version INTEGER NOT NULL,
                type TEXT NOT NULL,
                schema_version INTEGER NOT NULL,
                recorded_at TEXT NOT NULL,
                actor TEXT NOT NULL,
                correlation_id TEXT NOT NULL,
                causation_id TEXT NOT NULL,
                epoch INTEGER NOT NULL,
                payload TEXT NOT NULL,
                prev_hash BLOB NOT NULL,
                hash BLOB NOT NULL,
                UNIQUE (stream, version)
            );
INSERT INTO "events" VALUES(1,'01a20e86-851f-738b-b766-a7c9730b24df','record/rec-001',1,'RecordReceived',1,'2026-01-05T09:01:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-001","text_digest":"8571be718ab8ac0abac3cdee8fa112bd4fff586b6b931034fa18a6514577a538","chars":27,"source":"inbox","side":"train","audit":false,"audit_probability":0.3,"cluster":"rec-001","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'0000000000000000000000000000000000000000000000000000000000000000',X'C95D7B4C2282968CA0DD8092BFB0047B71CB3A7BBDCCC43295EBD3A2C6AA5D60');
INSERT INTO "events" VALUES(2,'01a20e86-852b-71bd-8b9e-98fa16cb758a','record/rec-002',1,'RecordReceived',1,'2026-01-05T09:02:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-002","text_digest":"752c8ffdabc7dff970b5a37e5f1706c869a7de5693d1033dddd23ad99c8c440d","chars":27,"source":"inbox","side":"train","audit":false,"audit_probability":0.3,"cluster":"rec-002","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'C95D7B4C2282968CA0DD8092BFB0047B71CB3A7BBDCCC43295EBD3A2C6AA5D60',X'D3FE0803AEC479C9C532C6F5DE3BD786F08CA62A0902DB93E334438B82B82C3C');
INSERT INTO "events" VALUES(3,'01a20e86-852d-70ec-a6b6-0867c1152de9','record/rec-003',1,'RecordReceived',1,'2026-01-05T09:03:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-003","text_digest":"f93834587268b280dde0859011ef2e274f63f82072ad5027f13c8e94b93e9e15","chars":27,"source":"inbox","side":"train","audit":false,"audit_probability":0.3,"cluster":"rec-003","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'D3FE0803AEC479C9C532C6F5DE3BD786F08CA62A0902DB93E334438B82B82C3C',X'EBA79E9C5A250313D227EAF606316B25713B8ED7940B4A28528ECAA229B8C3F9');
INSERT INTO "events" VALUES(4,'01a20e86-8533-7007-9969-0767156ce771','record/rec-004',1,'RecordReceived',1,'2026-01-05T09:04:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-004","text_digest":"26ea01deee7ff5b5b2025669e60eaf42f2d65c9c58388a30561f240aead85a3a","chars":27,"source":"inbox","side":"exam","audit":true,"audit_probability":0.3,"cluster":"rec-004","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'EBA79E9C5A250313D227EAF606316B25713B8ED7940B4A28528ECAA229B8C3F9',X'0CD3508E0DBAB7523636F0E61214C84E56053F87FFDCB5734CBD0B56FD2CC113');
INSERT INTO "events" VALUES(5,'01a20e86-8533-735f-a49b-a774927d3a64','record/rec-005',1,'RecordReceived',1,'2026-01-05T09:05:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-005","text_digest":"40151381eaa35dcc8b9242e3c28ed741f246917bcebf65dc4f51b990dd884ca3","chars":27,"source":"inbox","side":"train","audit":false,"audit_probability":0.3,"cluster":"rec-005","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'0CD3508E0DBAB7523636F0E61214C84E56053F87FFDCB5734CBD0B56FD2CC113',X'E1888EA1F6702FDBA209AED990DDA57469A9DB327101830C1EAE0D8C02DACF50');
INSERT INTO "events" VALUES(6,'01a20e86-8537-72d8-bf63-35efa587af61','record/rec-006',1,'RecordReceived',1,'2026-01-05T09:06:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-006","text_digest":"7d868a34fa679d3ab0cf946accd099176eb5afb27852d27db04578194bd6bd15","chars":27,"source":"inbox","side":"train","audit":false,"audit_probability":0.3,"cluster":"rec-006","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'E1888EA1F6702FDBA209AED990DDA57469A9DB327101830C1EAE0D8C02DACF50',X'6E2F325EAD0995619807706E24F4F179909CFA946CB1E31EBB69A0975D41EC1E');
INSERT INTO "events" VALUES(7,'01a20e86-853b-72de-94a4-f620b5353c13','record/rec-007',1,'RecordReceived',1,'2026-01-05T09:07:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-007","text_digest":"314dca5626a8998bebb9f11b725752f41ad0f51c80707578651a612cf3f25352","chars":27,"source":"inbox","side":"train","audit":false,"audit_probability":0.3,"cluster":"rec-007","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'6E2F325EAD0995619807706E24F4F179909CFA946CB1E31EBB69A0975D41EC1E',X'377B0452DD1E8E835F3C6699D2A39C7062168D17C14E5D552BEB5CD9A3FCC895');
INSERT INTO "events" VALUES(8,'01a20e86-853f-73b4-a48d-554796bc8256','record/rec-008',1,'RecordReceived',1,'2026-01-05T09:08:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-008","text_digest":"9b161670b63d93021cdf01ad3d9efea0de89bc275ac6087accf6a807babb92b7","chars":27,"source":"inbox","side":"exam","audit":true,"audit_probability":0.3,"cluster":"rec-008","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'377B0452DD1E8E835F3C6699D2A39C7062168D17C14E5D552BEB5CD9A3FCC895',X'073F227BA547DC59C8B9E1A7C8BC5E60526F236DF76A409165188B8AB75B795D');
INSERT INTO "events" VALUES(9,'01a20e86-8541-707a-857d-284f41055dc9','record/rec-evil',1,'RecordReceived',1,'2026-01-05T09:09:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-evil","text_digest":"40f13871753a3ed1f2a4b4bdea308a078f758a3e2df1ef3ea9ad47670f1a841a","chars":41,"source":"inbox","side":"train","audit":false,"audit_probability":0.3,"cluster":"rec-evil","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'073F227BA547DC59C8B9E1A7C8BC5E60526F236DF76A409165188B8AB75B795D',X'E5A0C2298D44FE61B762EFF7FBACB34623BDD30271EE146E08DB5ED84340B19A');
INSERT INTO "events" VALUES(10,'01a20e86-8543-72c2-ae46-086787116b42','task/tickets',1,'PromptAdopted',1,'2026-01-05T09:10:00.000000+00:00','daemon','','',0,'{"task":"tickets","prompt":"zero-shot@1","digest":"dddddddd","scores":[{"prompt":"zero-shot@1","correct":30,"n":60,"abstained":2,"seconds":4.0}],"reason":"the best"}',X'E5A0C2298D44FE61B762EFF7FBACB34623BDD30271EE146E08DB5ED84340B19A',X'F85C0CC69D403EB0E9345799542E16CCC9546A0B2587B07BB95411B65F53E6C7');
INSERT INTO "events" VALUES(11,'01a20e86-8547-70f8-bd7c-3a4432dd09ac','record/rec-001',2,'ReviewRequested',1,'2026-01-05T09:11:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-001","side":"train","reasons":[{"name":"uncertain","detail":"margin 0.20","score":0.2}],"priority":9.0}',X'F85C0CC69D403EB0E9345799542E16CCC9546A0B2587B07BB95411B65F53E6C7',X'467A29D93A682CD37D89A9917EAF167690BBEF4BB19F9796EC21D2A04D148657');
INSERT INTO "events" VALUES(12,'01a20e86-854b-73ec-9c38-545ad8fe951d','record/rec-002',2,'ReviewRequested',1,'2026-01-05T09:12:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-002","side":"train","reasons":[{"name":"uncertain","detail":"margin 0.20","score":0.2}],"priority":8.0}',X'467A29D93A682CD37D89A9917EAF167690BBEF4BB19F9796EC21D2A04D148657',X'1B3C0F0DE824881516AAF3D43DA46BEB9D71A23EA04805D62618B20F42B5071E');
INSERT INTO "events" VALUES(13,'01a20e86-854f-7199-b294-47bb5814caa5','record/rec-003',2,'ReviewRequested',1,'2026-01-05T09:13:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-003","side":"train","reasons":[{"name":"uncertain","detail":"margin 0.20","score":0.2}],"priority":7.0}',X'1B3C0F0DE824881516AAF3D43DA46BEB9D71A23EA04805D62618B20F42B5071E',X'15B313A826345E8AF1FC21F801A47EEDE7CEC59A9F5A8B1D2F1666D7FA83495E');
INSERT INTO "events" VALUES(14,'01a20e86-8551-7067-9d51-462a6547fe8c','record/rec-004',2,'ReviewRequested',1,'2026-01-05T09:14:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-004","side":"exam","reasons":[{"name":"uncertain","detail":"margin 0.20","score":0.2}],"priority":6.0}',X'15B313A826345E8AF1FC21F801A47EEDE7CEC59A9F5A8B1D2F1666D7FA83495E',X'DDED8FF62670E5072CD03CF9E8439AF9ED665E50B188FB9984F0C4833FA28918');
INSERT INTO "events" VALUES(15,'01a20e86-8553-72a3-be33-85fd1e3d8bde','record/rec-evil',2,'ReviewRequested',1,'2026-01-05T09:15:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-evil","side":"train","reasons":[{"name":"misclassified","detail":"margin 0.20","score":0.2}],"priority":0.1}',X'DDED8FF62670E5072CD03CF9E8439AF9ED665E50B188FB9984F0C4833FA28918',X'ACDE6B0B7599CA230D5DD051B08379C3D58DB4EBD281D486FA2916BE74ECE6A5');
INSERT INTO "events" VALUES(16,'01a20e86-8573-72cf-9952-1da557dd2be6','run/tickets-run-1',1,'DatasetFrozen',1,'2026-01-05T09:16:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","artifact":"sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060","up_to":15,"labels_train":50,"train":42,"valid":8,"exam":40,"hard_exam":6,"per_class":{"billing":20,"general":22},"curation":[{"step":"near-duplicates","count":2,"detail":"removed"}],"warnings":["urgent has 1 example"],"trigger":"50 labels"}',X'ACDE6B0B7599CA230D5DD051B08379C3D58DB4EBD281D486FA2916BE74ECE6A5',X'BBDF58E2E08FA8963525CE6A2D42F59F6E22FC1D2A7B30C096BE0B442F62B852');
INSERT INTO "events" VALUES(17,'01a20e86-857b-73fe-a7ab-2cf92edc0227','run/tickets-run-1',2,'TrainingStarted',1,'2026-01-05T09:17:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","attempt":1,"adapter":"tickets-v1","method":"qlora","base_model":"SmolLM2","base_digest":"sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","quantisation":"nf4","prompt":"zero-shot@1","seed":1,"hyperparameters":{"rank":16,"learning_rate":0.0002}}',X'BBDF58E2E08FA8963525CE6A2D42F59F6E22FC1D2A7B30C096BE0B442F62B852',X'C79DBFAE285D02905D747C533C3F8F729ECD9DD52D1D13C3CEB5BF41D550F758');
INSERT INTO "events" VALUES(18,'01a20e86-857f-7260-af66-3775eff7bff2','run/tickets-run-1',3,'TrainingProgressed',1,'2026-01-05T09:18:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","step":30,"of":60,"loss":1.5}',X'C79DBFAE285D02905D747C533C3F8F729ECD9DD52D1D13C3CEB5BF41D550F758',X'BA7F53553D0EBAA937EB0B82B7C3D9A26CA3B6ADA6C31A0FF3A43F92E94C530B');
INSERT INTO "events" VALUES(19,'01a20e86-8582-7024-9181-8549e30d5e82','run/tickets-run-1',4,'TrainingSucceeded',1,'2026-01-05T09:19:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","artifact":"sha256-fb3259fabe94efacddd096bc0b6a67dcd41c9b35751af86b6c3d9cd677b06fa1","steps":60,"epochs":3.0,"seconds":41.0,"train_loss":0.9,"eval_accuracy":0.75,"temperature":1.2,"peak_memory_mb":900.0,"stopped":"steps"}',X'BA7F53553D0EBAA937EB0B82B7C3D9A26CA3B6ADA6C31A0FF3A43F92E94C530B',X'CB2ADA1A747A8345DF89EDD08E6DF8CA90C1F1748302D91782DD32F443010246');
INSERT INTO "events" VALUES(20,'01a20e86-8582-729c-a163-172fe5cef7d8','run/tickets-run-1',5,'AdapterRegistered',1,'2026-01-05T09:20:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","adapter":"tickets-v1","artifact":"sha256-fb3259fabe94efacddd096bc0b6a67dcd41c9b35751af86b6c3d9cd677b06fa1","control":"sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060","method":"qlora","base_digest":"sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","quantisation":"nf4","prompt":"zero-shot@1","temperature":1.2}',X'CB2ADA1A747A8345DF89EDD08E6DF8CA90C1F1748302D91782DD32F443010246',X'00A8B8BF7DA2EB4E298579F7AA1E163E03E96E7718A313424DA9DC2EB0805BCB');
INSERT INTO "events" VALUES(21,'01a20e86-8582-728d-8371-22b30dd80436','run/tickets-run-1',6,'EvaluationStarted',1,'2026-01-05T09:21:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","evaluation_id":"tickets-v1-look-1","attempt":1,"candidate":"tickets-v1","champion":"zero-shot@1","baseline":"zero-shot@1","exam":40,"hard_exam":6,"look":1}',X'00A8B8BF7DA2EB4E298579F7AA1E163E03E96E7718A313424DA9DC2EB0805BCB',X'047996D4BB286D5803D322972696F497A37460F0A4C308EC16189614D028CA83');
INSERT INTO "events" VALUES(22,'01a20e86-858b-7010-b459-89be204a273b','run/tickets-run-1',7,'EvaluationSucceeded',1,'2026-01-05T09:22:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","evaluation_id":"tickets-v1-look-1","artifact":"sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060","results":[{"answerer":"zero-shot@1","kind":"prompt","decoding":"score","n":40,"correct":20,"accuracy":0.5,"low":0.4,"high":0.6,"recall":{"billing":0.5},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3},{"answerer":"tickets-v1","kind":"adapter","decoding":"score","n":40,"correct":32,"accuracy":0.8,"low":0.7000000000000001,"high":0.9,"recall":{"billing":0.8},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3}],"paired":[{"opponent":"zero-shot@1","decoding":"score","n":40,"gained":14,"lost":2,"difference":0.3,"low":0.1,"high":0.5,"p_value":0.004}],"seconds":12.0}',X'047996D4BB286D5803D322972696F497A37460F0A4C308EC16189614D028CA83',X'37517C86C4F93AF7BD89819357353F8E8D9FAC6EB30C6C4C0601DE5D3A1C518D');
INSERT INTO "events" VALUES(23,'01a20e86-858f-7308-a10b-fa0c597cc0d4','run/tickets-run-1',8,'CandidateJudged',1,'2026-01-05T09:23:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","evaluation_id":"tickets-v1-look-1","candidate":"tickets-v1","champion":"zero-shot@1","verdict":"promote","checks":[{"name":"better than baseline","outcome":"pass","detail":"+30 points","value":0.3}],"summary":"tickets-v1 gains 30 points over zero-shot@1"}',X'37517C86C4F93AF7BD89819357353F8E8D9FAC6EB30C6C4C0601DE5D3A1C518D',X'8C013A312187362EB6174C525C9C7BF738A229CD17EEE87D4E5BC83BE9D45C47');
INSERT INTO "events" VALUES(24,'01a20e86-8591-7215-a06c-cef6a8d6d9f9','deployment/tickets',1,'AdapterPromoted',1,'2026-01-05T09:24:00.000000+00:00','daemon','','',0,'{"task":"tickets","answerer":"tickets-v1","kind":"adapter","previous":"zero-shot@1","artifact":"sha256-fb3259fabe94efacddd096bc0b6a67dcd41c9b35751af86b6c3d9cd677b06fa1","run_id":"tickets-run-1","gain":0.3}',X'8C013A312187362EB6174C525C9C7BF738A229CD17EEE87D4E5BC83BE9D45C47',X'16BFF152CC60654C758DB161AFF6531BE07DB8C8E7D9333FA6F238E1BA22C923');
INSERT INTO "events" VALUES(25,'01a20e86-85bb-7015-a5a6-81f1f0066d4f','run/tickets-run-2',1,'DatasetFrozen',1,'2026-01-05T09:25:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","artifact":"sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354","up_to":24,"labels_train":50,"train":42,"valid":8,"exam":40,"hard_exam":6,"per_class":{"billing":20,"general":22},"curation":[{"step":"near-duplicates","count":2,"detail":"removed"}],"warnings":["urgent has 1 example"],"trigger":"50 labels"}',X'16BFF152CC60654C758DB161AFF6531BE07DB8C8E7D9333FA6F238E1BA22C923',X'41FF473A4A45EBC36CC25DCB523D1C775FA7511BF8E04CC06A7F2C48A43F9505');
INSERT INTO "events" VALUES(26,'01a20e86-85bf-72c7-afa0-6b7617483b49','run/tickets-run-2',2,'TrainingStarted',1,'2026-01-05T09:26:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","attempt":1,"adapter":"tickets-v2","method":"qlora","base_model":"SmolLM2","base_digest":"sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","quantisation":"nf4","prompt":"zero-shot@1","seed":1,"hyperparameters":{"rank":16,"learning_rate":0.0002}}',X'41FF473A4A45EBC36CC25DCB523D1C775FA7511BF8E04CC06A7F2C48A43F9505',X'B61B6BCAE4A890D07973F29C4CED792FC175758984696DC0FEFE6EFE69D8DED4');
INSERT INTO "events" VALUES(27,'01a20e86-85c3-73a4-b443-9435ca048e88','run/tickets-run-2',3,'TrainingProgressed',1,'2026-01-05T09:27:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","step":30,"of":60,"loss":1.5}',X'B61B6BCAE4A890D07973F29C4CED792FC175758984696DC0FEFE6EFE69D8DED4',X'92B2D2C67624A7007C1F742C9951FEBBC3350F711D71DBF6FB67BFC2929BEA22');
INSERT INTO "events" VALUES(28,'01a20e86-85cb-7087-9a87-1dfab0774d3b','run/tickets-run-2',4,'TrainingSucceeded',1,'2026-01-05T09:28:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","artifact":"sha256-c01b6f7410452e554ada55c08343d5255509b4e4c3387374a681b18ec212eeee","steps":60,"epochs":3.0,"seconds":41.0,"train_loss":0.9,"eval_accuracy":0.75,"temperature":1.2,"peak_memory_mb":900.0,"stopped":"steps"}',X'92B2D2C67624A7007C1F742C9951FEBBC3350F711D71DBF6FB67BFC2929BEA22',X'05C7A8B00997BD07EBA7B766CFACB4C385A4D325C5FD7D2C400527D8A9CFD660');
INSERT INTO "events" VALUES(29,'01a20e86-85e3-717f-8a23-e3c32e6ab318','run/tickets-run-2',5,'AdapterRegistered',1,'2026-01-05T09:29:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","adapter":"tickets-v2","artifact":"sha256-c01b6f7410452e554ada55c08343d5255509b4e4c3387374a681b18ec212eeee","control":"sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354","method":"qlora","base_digest":"sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","quantisation":"nf4","prompt":"zero-shot@1","temperature":1.2}',X'05C7A8B00997BD07EBA7B766CFACB4C385A4D325C5FD7D2C400527D8A9CFD660',X'E82F8F863BF128472A5A5ECAF09247A9996C143D92291B94779ACA253B54CE09');
INSERT INTO "events" VALUES(30,'01a20e86-85e7-72b2-90f3-ee8c0a1bd405','run/tickets-run-2',6,'EvaluationStarted',1,'2026-01-05T09:30:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","evaluation_id":"tickets-v2-look-1","attempt":1,"candidate":"tickets-v2","champion":"tickets-v1","baseline":"zero-shot@1","exam":40,"hard_exam":6,"look":1}',X'E82F8F863BF128472A5A5ECAF09247A9996C143D92291B94779ACA253B54CE09',X'02538577ECBB881D19E753BBAC09FC0D28037A500D7713283FDFBEF5C30AC82F');
INSERT INTO "events" VALUES(31,'01a20e86-85ef-72cf-9d56-75ff2b94869a','run/tickets-run-2',7,'EvaluationSucceeded',1,'2026-01-05T09:31:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","evaluation_id":"tickets-v2-look-1","artifact":"sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354","results":[{"answerer":"zero-shot@1","kind":"prompt","decoding":"score","n":40,"correct":20,"accuracy":0.5,"low":0.4,"high":0.6,"recall":{"billing":0.5},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3},{"answerer":"tickets-v2","kind":"adapter","decoding":"score","n":40,"correct":16,"accuracy":0.4,"low":0.30000000000000004,"high":0.5,"recall":{"billing":0.4},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3}],"paired":[{"opponent":"zero-shot@1","decoding":"score","n":40,"gained":14,"lost":2,"difference":0.3,"low":0.1,"high":0.5,"p_value":0.004}],"seconds":12.0}',X'02538577ECBB881D19E753BBAC09FC0D28037A500D7713283FDFBEF5C30AC82F',X'80F11B194D9C280FBDE0B815D58F77E47D2611F03CCD6185B7847BACE2E59AF9');
INSERT INTO "events" VALUES(32,'01a20e86-85f3-70f6-9a9a-abb0546580ce','run/tickets-run-2',8,'CandidateJudged',1,'2026-01-05T09:32:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","evaluation_id":"tickets-v2-look-1","candidate":"tickets-v2","champion":"tickets-v1","verdict":"reject","checks":[{"name":"better than baseline","outcome":"pass","detail":"+30 points","value":0.3}],"summary":"tickets-v2 gains 30 points over zero-shot@1"}',X'80F11B194D9C280FBDE0B815D58F77E47D2611F03CCD6185B7847BACE2E59AF9',X'0701ED8C2C942DA66347AEC8CCCDA5788A00187BB64FE89B24B83448FB751420');
INSERT INTO "events" VALUES(33,'01a20e86-85f5-7164-9ccc-6303cd2044a4','run/tickets-run-2',9,'CandidateRejected',1,'2026-01-05T09:33:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","candidate":"tickets-v2","reason":"too weak"}',X'0701ED8C2C942DA66347AEC8CCCDA5788A00187BB64FE89B24B83448FB751420',X'139EF63CB4B19AA2148F5B5B229C7D046A3CE2134F4105C32979B9AA40C9F05D');
INSERT INTO "events" VALUES(34,'01a20e86-8636-71a1-a1b9-a24db86dbba5','record/rec-001',3,'FeedbackReceived',1,'2026-01-05T09:01:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-001","label":"billing","side":"train","disagrees":true,"answered_by":"zero-shot@1","source":"cli"}',X'139EF63CB4B19AA2148F5B5B229C7D046A3CE2134F4105C32979B9AA40C9F05D',X'BDF3D136284E9594A551B4B2C685D94BA4BECD2ADCEB11941AF2021F795EC80F');
INSERT INTO "events" VALUES(35,'01a20e86-864f-7258-9ba0-b3a4d2234988','record/rec-001',4,'LabelGiven',1,'2026-01-05T09:02:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-001","label":"billing","side":"train","audit":false,"annotator":"kim"}',X'BDF3D136284E9594A551B4B2C685D94BA4BECD2ADCEB11941AF2021F795EC80F',X'6C8597E2208BD30186DD502AF360501D5C35CDBAA40B8C3ADAD22D140B1AF2AD');
INSERT INTO "events" VALUES(36,'01a20e86-8653-7199-ac45-301dc3ce6047','record/rec-004',3,'LabelGiven',1,'2026-01-05T09:03:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-004","label":"urgent","side":"exam","audit":true,"annotator":"kim"}',X'6C8597E2208BD30186DD502AF360501D5C35CDBAA40B8C3ADAD22D140B1AF2AD',X'D854D15FC321A4ECE11B1EC2CB468B89E69E99B7656F5C3D7D87A0E170A2D620');
INSERT INTO "events" VALUES(37,'01a20e86-8657-71df-8350-6a5cf6a3b641','record/rec-004',4,'LabelWithdrawn',1,'2026-01-05T09:04:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-004","label":"urgent","side":"exam","audit":true,"annotator":"kim"}',X'D854D15FC321A4ECE11B1EC2CB468B89E69E99B7656F5C3D7D87A0E170A2D620',X'244492B4546CBAC5D45CE3998D1EDCFF7EC1E4CB796B8BA6D47B7BC064C660FE');
INSERT INTO "events" VALUES(38,'01a20e86-8657-72a4-998b-1ec10977b4e2','deployment/tickets',2,'AdapterRolledBack',1,'2026-01-05T09:05:00.000000+00:00','daemon','','',0,'{"task":"tickets","answerer":"zero-shot@1","kind":"prompt","rolled_back":"tickets-v1","reason":"worse"}',X'244492B4546CBAC5D45CE3998D1EDCFF7EC1E4CB796B8BA6D47B7BC064C660FE',X'8B4817AEC4C126F34E59A0A67D6689F57EC0953FA27C3615ED5B3F70A6FD1441');
INSERT INTO "events" VALUES(39,'01a20e86-865a-724d-8a8d-01bc90902c57','loop',1,'LoopPaused',1,'2026-01-05T09:06:00.000000+00:00','daemon','','',0,'{"reason":"maintenance"}',X'8B4817AEC4C126F34E59A0A67D6689F57EC0953FA27C3615ED5B3F70A6FD1441',X'3BA78B9892661DBBC8AC48E49E13E7ACE8A54E95D57A072C14C3B67B2E94C141');
CREATE TABLE lease (
                id INTEGER PRIMARY KEY CHECK (id = 1),
                epoch INTEGER NOT NULL,
                holder TEXT NOT NULL
            );
INSERT INTO "lease" VALUES(1,0,'');
CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO "migrations" VALUES(1,'log, lease, texts and cursors');
CREATE TABLE near_duplicates (
                task TEXT NOT NULL,
                band BLOB NOT NULL,
                record_id TEXT NOT NULL,
                PRIMARY KEY (task, band, record_id)
            ) WITHOUT ROWID;
CREATE TABLE "records" (
	record_id VARCHAR NOT NULL, 
	task VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	received_at VARCHAR NOT NULL, 
	side VARCHAR NOT NULL, 
	audit BOOLEAN NOT NULL, 
	audit_probability FLOAT NOT NULL, 
	cluster VARCHAR NOT NULL, 
	source VARCHAR NOT NULL, 
	chars INTEGER NOT NULL, 
	text_digest VARCHAR NOT NULL, 
	answer VARCHAR, 
	answered_by VARCHAR NOT NULL, 
	confidence FLOAT, 
	margin FLOAT, 
	feedback VARCHAR, 
	label VARCHAR, 
	annotator VARCHAR NOT NULL, 
	labelled_at VARCHAR, 
	label_position INTEGER NOT NULL, 
	via VARCHAR NOT NULL, 
	review VARCHAR NOT NULL, 
	reasons JSON NOT NULL, 
	priority FLOAT NOT NULL, 
	erased BOOLEAN NOT NULL, 
	PRIMARY KEY (record_id)
);
INSERT INTO "records" VALUES('rec-002','tickets',2,'2026-01-05T09:02:00.000000+00:00','train',0,0.3,'rec-002','inbox',27,'752c8ffdabc7dff970b5a37e5f1706c869a7de5693d1033dddd23ad99c8c440d','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','open','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',8.0,0);
INSERT INTO "records" VALUES('rec-004','tickets',4,'2026-01-05T09:04:00.000000+00:00','exam',1,0.3,'rec-004','inbox',27,'26ea01deee7ff5b5b2025669e60eaf42f2d65c9c58388a30561f240aead85a3a','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,37,'','open','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',6.0,0);
INSERT INTO "records" VALUES('rec-005','tickets',5,'2026-01-05T09:05:00.000000+00:00','train',0,0.3,'rec-005','inbox',27,'40151381eaa35dcc8b9242e3c28ed741f246917bcebf65dc4f51b990dd884ca3','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
INSERT INTO "records" VALUES('rec-007','tickets',7,'2026-01-05T09:07:00.000000+00:00','train',0,0.3,'rec-007','inbox',27,'314dca5626a8998bebb9f11b725752f41ad0f51c80707578651a612cf3f25352','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
INSERT INTO "records" VALUES('rec-008','tickets',8,'2026-01-05T09:08:00.000000+00:00','exam',1,0.3,'rec-008','inbox',27,'9b161670b63d93021cdf01ad3d9efea0de89bc275ac6087accf6a807babb92b7','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
INSERT INTO "records" VALUES('rec-evil','tickets',9,'2026-01-05T09:09:00.000000+00:00','train',0,0.3,'rec-evil','inbox',41,'40f13871753a3ed1f2a4b4bdea308a078f758a3e2df1ef3ea9ad47670f1a841a','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','open','[{"name":"misclassified","detail":"margin 0.20","score":0.2}]',0.1,0);
INSERT INTO "records" VALUES('rec-003','tickets',3,'2026-01-05T09:03:00.000000+00:00','train',0,0.3,'rec-003','inbox',27,'f93834587268b280dde0859011ef2e274f63f82072ad5027f13c8e94b93e9e15','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','open','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',7.0,0);
INSERT INTO "records" VALUES('rec-001','tickets',1,'2026-01-05T09:01:00.000000+00:00','train',0,0.3,'rec-001','inbox',27,'8571be718ab8ac0abac3cdee8fa112bd4fff586b6b931034fa18a6514577a538','general','zero-shot@1',0.61,0.2,'billing','billing','kim','2026-01-05T09:02:00.000000+00:00',35,'review','done','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',9.0,0);
INSERT INTO "records" VALUES('rec-006','tickets',6,'2026-01-05T09:06:00.000000+00:00','train',0,0.3,'rec-006','inbox',27,'7d868a34fa679d3ab0cf946accd099176eb5afb27852d27db04578194bd6bd15','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
CREATE TABLE "runs" (
	run_id VARCHAR NOT NULL, 
	task VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	"plan" VARCHAR NOT NULL, 
	"trigger" VARCHAR NOT NULL, 
	dataset VARCHAR NOT NULL, 
	labels_train INTEGER NOT NULL, 
	train INTEGER NOT NULL, 
	valid INTEGER NOT NULL, 
	exam INTEGER NOT NULL, 
	hard_exam INTEGER NOT NULL, 
	per_class JSON NOT NULL, 
	curation JSON NOT NULL, 
	warnings JSON NOT NULL, 
	adapter VARCHAR NOT NULL, 
	method VARCHAR NOT NULL, 
	prompt VARCHAR NOT NULL, 
	base_model VARCHAR NOT NULL, 
	base_digest VARCHAR NOT NULL, 
	quantisation VARCHAR NOT NULL, 
	seed INTEGER NOT NULL, 
	hyperparameters JSON NOT NULL, 
	epoch_cap_exceeded BOOLEAN NOT NULL, 
	attempt INTEGER NOT NULL, 
	resumed_from INTEGER NOT NULL, 
	evaluation_id VARCHAR NOT NULL, 
	step INTEGER NOT NULL, 
	"of" INTEGER NOT NULL, 
	loss FLOAT, 
	eval_loss FLOAT, 
	eval_accuracy FLOAT, 
	seconds FLOAT NOT NULL, 
	peak_memory_mb FLOAT NOT NULL, 
	stopped VARCHAR NOT NULL, 
	artifact VARCHAR NOT NULL, 
	verdict VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	started_at VARCHAR, 
	ended_at VARCHAR, 
	PRIMARY KEY (run_id)
);
INSERT INTO "runs" VALUES('tickets-run-2','tickets',25,'reject','standard','50 labels','sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354',50,42,8,40,6,'{"billing":20,"general":22}','[{"step":"near-duplicates","count":2,"detail":"removed"}]','["urgent has 1 example"]','tickets-v2','qlora','zero-shot@1','SmolLM2','sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','nf4',1,'{"rank":16,"learning_rate":0.0002}',0,1,0,'tickets-v2-look-1',60,60,0.9,NULL,0.75,41.0,900.0,'steps','sha256-c01b6f7410452e554ada55c08343d5255509b4e4c3387374a681b18ec212eeee','reject','tickets-v2 gains 30 points over zero-shot@1','2026-01-05T09:25:00.000000+00:00','2026-01-05T09:31:00.000000+00:00');
INSERT INTO "runs" VALUES('tickets-run-1','tickets',16,'promote','standard','50 labels','sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060',50,42,8,40,6,'{"billing":20,"general":22}','[{"step":"near-duplicates","count":2,"detail":"removed"}]','["urgent has 1 example"]','tickets-v1','qlora','zero-shot@1','SmolLM2','sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','nf4',1,'{"rank":16,"learning_rate":0.0002}',0,1,0,'tickets-v1-look-1',60,60,0.9,NULL,0.75,41.0,900.0,'steps','sha256-fb3259fabe94efacddd096bc0b6a67dcd41c9b35751af86b6c3d9cd677b06fa1','promote','tickets-v1 gains 30 points over zero-shot@1','2026-01-05T09:16:00.000000+00:00','2026-01-05T09:22:00.000000+00:00');
CREATE TABLE "tasks" (
	task VARCHAR NOT NULL, 
	prompt VARCHAR NOT NULL, 
	prompt_digest VARCHAR NOT NULL, 
	prompt_scores JSON NOT NULL, 
	harvested_up_to INTEGER NOT NULL, 
	paused BOOLEAN NOT NULL, 
	paused_reason VARCHAR NOT NULL, 
	PRIMARY KEY (task)
);
INSERT INTO "tasks" VALUES('tickets','zero-shot@1','dddddddd','[{"prompt":"zero-shot@1","correct":30,"n":60,"abstained":2,"seconds":4.0}]',0,0,'');
INSERT INTO "tasks" VALUES('','','','[]',0,1,'maintenance');
CREATE TABLE texts (
                record_id TEXT PRIMARY KEY,
                task TEXT NOT NULL,
                text TEXT,
                salt BLOB,
                digest TEXT NOT NULL,
                customer TEXT NOT NULL,
                meta TEXT NOT NULL
            );
INSERT INTO "texts" VALUES('rec-001','tickets','ticket number 1
please help',X'6DA7FD97A58A00E06708952ABE1BF3B0','8571be718ab8ac0abac3cdee8fa112bd4fff586b6b931034fa18a6514577a538','','{}');
INSERT INTO "texts" VALUES('rec-002','tickets','ticket number 2
please help',X'3DAD13DAC882461BAB0169B3543E5587','752c8ffdabc7dff970b5a37e5f1706c869a7de5693d1033dddd23ad99c8c440d','','{}');
INSERT INTO "texts" VALUES('rec-003','tickets','ticket number 3
please help',X'D96D4CFCE0EAFAE13585AB7186898E69','f93834587268b280dde0859011ef2e274f63f82072ad5027f13c8e94b93e9e15','','{}');
INSERT INTO "texts" VALUES('rec-004','tickets','ticket number 4
please help',X'3C8B16143BD5BDC941359A0FC2D6FC1F','26ea01deee7ff5b5b2025669e60eaf42f2d65c9c58388a30561f240aead85a3a','','{}');
INSERT INTO "texts" VALUES('rec-005','tickets','ticket number 5
please help',X'5A9BD4314C001D37C2620FB2D8B1AA06','40151381eaa35dcc8b9242e3c28ed741f246917bcebf65dc4f51b990dd884ca3','','{}');
INSERT INTO "texts" VALUES('rec-006','tickets','ticket number 6
please help',X'5A6EB4D65FE68144ECDC2341EC9BD02E','7d868a34fa679d3ab0cf946accd099176eb5afb27852d27db04578194bd6bd15','','{}');
INSERT INTO "texts" VALUES('rec-007','tickets','ticket number 7
please help',X'F02927A2AEBE6E8236A47BE39E13D8FF','314dca5626a8998bebb9f11b725752f41ad0f51c80707578651a612cf3f25352','','{}');
INSERT INTO "texts" VALUES('rec-008','tickets','ticket number 8
please help',X'F070BB8F969B81561F9AC6069EBACB18','9b161670b63d93021cdf01ad3d9efea0de89bc275ac6087accf6a807babb92b7','','{}');
INSERT INTO "texts" VALUES('rec-evil','tickets','[31mpay[0m me [bold]now[/bold] ‮evil1m',X'B30D4D7797C82D6A87513C82026824CF','40f13871753a3ed1f2a4b4bdea308a078f758a3e2df1ef3ea9ad47670f1a841a','','{}');
CREATE TRIGGER events_are_never_updated BEFORE UPDATE ON events
               BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
               BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE INDEX texts_by_customer ON texts (customer) WHERE customer != '';
CREATE INDEX near_duplicates_by_record ON near_duplicates (record_id);
CREATE INDEX evaluations_by_task ON evaluations (task, position);
CREATE INDEX records_by_cluster ON records (task, cluster);
CREATE INDEX records_by_label ON records (task, side, label_position);
CREATE INDEX records_by_position ON records (task, position);
CREATE INDEX records_by_queue ON records (task, review, priority, position);
CREATE INDEX runs_by_task ON runs (task, position);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',39);
COMMIT;
