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
INSERT INTO "counters" VALUES('tickets','queue','exam',1);
INSERT INTO "counters" VALUES('tickets','received','train',7);
INSERT INTO "counters" VALUES('tickets','open','misclassified',1);
INSERT INTO "counters" VALUES('tickets','queue','train',3);
INSERT INTO "counters" VALUES('tickets','open','uncertain',3);
INSERT INTO "counters" VALUES('tickets','received','exam',2);
INSERT INTO "counters" VALUES('tickets','answered','general',9);
INSERT INTO "counters" VALUES('tickets','train_labels','billing',1);
INSERT INTO "counters" VALUES('tickets','labelled','urgent',0);
INSERT INTO "counters" VALUES('tickets','audit_labels','urgent',0);
INSERT INTO "counters" VALUES('tickets','exam_labels','urgent',0);
INSERT INTO "counters" VALUES('tickets','labelled','billing',1);
INSERT INTO "counters" VALUES('tickets','disagreed','general',1);
CREATE TABLE cursors (
                name TEXT PRIMARY KEY,
                position INTEGER NOT NULL,
                version INTEGER NOT NULL
            );
INSERT INTO "cursors" VALUES('read-tables',41,2);
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
INSERT INTO "evaluations" VALUES('tickets-v2-look-1','tickets-run-2','tickets',30,'evaluated',1,'tickets-v2','tickets-v1','zero-shot@1',40,6,1,'sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354','[{"answerer":"zero-shot@1","kind":"prompt","decoding":"score","n":40,"correct":20,"accuracy":0.5,"low":0.4,"high":0.6,"recall":{"billing":0.5},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3,"support":{}},{"answerer":"tickets-v2","kind":"adapter","decoding":"score","n":40,"correct":16,"accuracy":0.4,"low":0.30000000000000004,"high":0.5,"recall":{"billing":0.4},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3,"support":{}}]','[{"opponent":"zero-shot@1","decoding":"score","n":40,"gained":14,"lost":2,"difference":0.3,"low":0.1,"high":0.5,"p_value":0.004}]',NULL,'reject','[{"name":"better than baseline","outcome":"pass","detail":"+30 points","value":0.3,"limit":null}]','tickets-v2 gains 30 points over zero-shot@1',12.0,'','2026-01-05T09:30:00.000000+00:00','2026-01-05T09:31:00.000000+00:00');
INSERT INTO "evaluations" VALUES('tickets-v1-look-1','tickets-run-1','tickets',21,'evaluated',1,'tickets-v1','zero-shot@1','zero-shot@1',40,6,1,'sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060','[{"answerer":"zero-shot@1","kind":"prompt","decoding":"score","n":40,"correct":20,"accuracy":0.5,"low":0.4,"high":0.6,"recall":{"billing":0.5},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3,"support":{}},{"answerer":"tickets-v1","kind":"adapter","decoding":"score","n":40,"correct":32,"accuracy":0.8,"low":0.7000000000000001,"high":0.9,"recall":{"billing":0.8},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3,"support":{}}]','[{"opponent":"zero-shot@1","decoding":"score","n":40,"gained":14,"lost":2,"difference":0.3,"low":0.1,"high":0.5,"p_value":0.004}]',NULL,'promote','[{"name":"better than baseline","outcome":"pass","detail":"+30 points","value":0.3,"limit":null}]','tickets-v1 gains 30 points over zero-shot@1',12.0,'','2026-01-05T09:21:00.000000+00:00','2026-01-05T09:22:00.000000+00:00');
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
INSERT INTO "events" VALUES(1,'01a20e8d-bb73-7072-b4ed-49874d7ae3dd','record/rec-001',1,'RecordReceived',1,'2026-01-05T09:01:00.000000+00:00','daemon','','',0,'',X'0000000000000000000000000000000000000000000000000000000000000000',X'DB3E210844431950844DA3A38EB5923315D61CB0D4B77A9632DEA071F39AFB60');
INSERT INTO "events" VALUES(2,'01a20e8d-bb74-704e-87bd-79002c37ab90','record/rec-002',1,'RecordReceived',1,'2026-01-05T09:02:00.000000+00:00','daemon','','',0,'',X'DB3E210844431950844DA3A38EB5923315D61CB0D4B77A9632DEA071F39AFB60',X'8778DBA1A46AEBA2EA06F8A0D50E631D74D229A39EB55DEA866F8B71018F15BD');
INSERT INTO "events" VALUES(3,'01a20e8d-bb74-723a-842c-8a295b1d1196','record/rec-003',1,'RecordReceived',1,'2026-01-05T09:03:00.000000+00:00','daemon','','',0,'',X'8778DBA1A46AEBA2EA06F8A0D50E631D74D229A39EB55DEA866F8B71018F15BD',X'4C6B0FA3947D7A9954F6E9689D1594FF4603D3978B62E0B55A6110EB4089B844');
INSERT INTO "events" VALUES(4,'01a20e8d-bb74-712b-bce7-d317834fe27a','record/rec-004',1,'RecordReceived',1,'2026-01-05T09:04:00.000000+00:00','daemon','','',0,'',X'4C6B0FA3947D7A9954F6E9689D1594FF4603D3978B62E0B55A6110EB4089B844',X'FA777C2089BA510A3293CAC98C6BF441BE6C2EB9E69F20184EA05F62BAEBE709');
INSERT INTO "events" VALUES(5,'01a20e8d-bb75-72eb-a73d-9c8bf69ba4eb','record/rec-005',1,'RecordReceived',1,'2026-01-05T09:05:00.000000+00:00','daemon','','',0,'',X'FA777C2089BA510A3293CAC98C6BF441BE6C2EB9E69F20184EA05F62BAEBE709',X'28C760FDB8718CD58792B3046EEBF005F92F1C1DD3566F57C46137756825AB58');
INSERT INTO "events" VALUES(6,'01a20e8d-bb75-71da-97a1-878a616e0231','record/rec-006',1,'RecordReceived',1,'2026-01-05T09:06:00.000000+00:00','daemon','','',0,'',X'28C760FDB8718CD58792B3046EEBF005F92F1C1DD3566F57C46137756825AB58',X'C073EBE08867D11A6443E7108263D58A5B15B479359A3C24EF61D5341B960BA2');
INSERT INTO "events" VALUES(7,'01a20e8d-bb75-7392-b530-514e87af4a39','record/rec-007',1,'RecordReceived',1,'2026-01-05T09:07:00.000000+00:00','daemon','','',0,'',X'C073EBE08867D11A6443E7108263D58A5B15B479359A3C24EF61D5341B960BA2',X'503003B87ECC2D32205E83DED2D141B0C4FDC7B0D73220A10F39E67B9B627617');
INSERT INTO "events" VALUES(8,'01a20e8d-bb76-72b3-afae-583371b5fcf6','record/rec-008',1,'RecordReceived',1,'2026-01-05T09:08:00.000000+00:00','daemon','','',0,'',X'503003B87ECC2D32205E83DED2D141B0C4FDC7B0D73220A10F39E67B9B627617',X'13DB28AF97EFC99BDE89E9B1A50761ADD24FFA9936C95C0A5DA52AD99AFA752C');
INSERT INTO "events" VALUES(9,'01a20e8d-bb76-7191-87f6-f14fb8cff096','record/rec-evil',1,'RecordReceived',1,'2026-01-05T09:09:00.000000+00:00','daemon','','',0,'',X'13DB28AF97EFC99BDE89E9B1A50761ADD24FFA9936C95C0A5DA52AD99AFA752C',X'250F7912ACE872AF483FF3E96919ED84DC30E1AA3B4B5179EE16B7C018548849');
INSERT INTO "events" VALUES(10,'01a20e8d-bb76-7349-a246-03f576bd87f7','task/tickets',1,'PromptAdopted',1,'2026-01-05T09:10:00.000000+00:00','daemon','','',0,'',X'250F7912ACE872AF483FF3E96919ED84DC30E1AA3B4B5179EE16B7C018548849',X'2A446DCED6E098DA0DE1B0066CD844FFC63448592033484ED7EA5DC9AFCAF02C');
INSERT INTO "events" VALUES(11,'01a20e8d-bb77-702a-bd9a-c6b1a3a13740','record/rec-001',2,'ReviewRequested',1,'2026-01-05T09:11:00.000000+00:00','daemon','','',0,'',X'2A446DCED6E098DA0DE1B0066CD844FFC63448592033484ED7EA5DC9AFCAF02C',X'49290B2B206049288207C8745FFD26A7D20D2249FFAB7C4FC46380C0E95E2A71');
INSERT INTO "events" VALUES(12,'01a20e8d-bb77-724b-a765-ae49cb1857d2','record/rec-002',2,'ReviewRequested',1,'2026-01-05T09:12:00.000000+00:00','daemon','','',0,'',X'49290B2B206049288207C8745FFD26A7D20D2249FFAB7C4FC46380C0E95E2A71',X'DEDCB4BF10EC7EEC5B7CA44BB393F1AF60DC1E77B054300DDF1E9710BA08A758');
INSERT INTO "events" VALUES(13,'01a20e8d-bb77-70a8-9c4a-4109d790cdd2','record/rec-003',2,'ReviewRequested',1,'2026-01-05T09:13:00.000000+00:00','daemon','','',0,'',X'DEDCB4BF10EC7EEC5B7CA44BB393F1AF60DC1E77B054300DDF1E9710BA08A758',X'24E3E25ADA28FFC5ABBA5AAF27A32172444F97AA569719043F6AAB0EF998D90E');
INSERT INTO "events" VALUES(14,'01a20e8d-bb78-7301-bcf0-7707d3cd216c','record/rec-004',2,'ReviewRequested',1,'2026-01-05T09:14:00.000000+00:00','daemon','','',0,'',X'24E3E25ADA28FFC5ABBA5AAF27A32172444F97AA569719043F6AAB0EF998D90E',X'C43FD715D5536E94E87C78E113B87875F01E55125E425B09834DF27D8008302C');
INSERT INTO "events" VALUES(15,'01a20e8d-bb78-72fe-93d5-c3a7ba992910','record/rec-evil',2,'ReviewRequested',1,'2026-01-05T09:15:00.000000+00:00','daemon','','',0,'',X'C43FD715D5536E94E87C78E113B87875F01E55125E425B09834DF27D8008302C',X'2ADACAD4793CF6895CADD5397AEB4218B52BA82F3A83CA767230CF2C228EAA90');
INSERT INTO "events" VALUES(16,'01a20e8d-bb7c-7246-8fe7-3624f18eaf6d','run/tickets-run-1',1,'DatasetFrozen',1,'2026-01-05T09:16:00.000000+00:00','daemon','','',0,'',X'2ADACAD4793CF6895CADD5397AEB4218B52BA82F3A83CA767230CF2C228EAA90',X'5F2693E3AECB2136DB5A09D67FA13448110408883545297ACFA15DEFC2A66A7E');
INSERT INTO "events" VALUES(17,'01a20e8d-bb7c-71af-9bfa-9edb9b2a9f5d','run/tickets-run-1',2,'TrainingStarted',1,'2026-01-05T09:17:00.000000+00:00','daemon','','',0,'',X'5F2693E3AECB2136DB5A09D67FA13448110408883545297ACFA15DEFC2A66A7E',X'54FB2465EF9C7BF91CFAD1140CD6262D4DD649FC65CE2E73C708D9211CDD258C');
INSERT INTO "events" VALUES(18,'01a20e8d-bb7c-717f-82b9-904d02f3a0cc','run/tickets-run-1',3,'TrainingProgressed',1,'2026-01-05T09:18:00.000000+00:00','daemon','','',0,'',X'54FB2465EF9C7BF91CFAD1140CD6262D4DD649FC65CE2E73C708D9211CDD258C',X'0A4A21408462978E08160E4923174C28F6BFB329ADEA55D757C8648E9D7837F6');
INSERT INTO "events" VALUES(19,'01a20e8d-bb7d-73ee-be30-a8fc8fe65e8c','run/tickets-run-1',4,'TrainingSucceeded',1,'2026-01-05T09:19:00.000000+00:00','daemon','','',0,'',X'0A4A21408462978E08160E4923174C28F6BFB329ADEA55D757C8648E9D7837F6',X'A173EDC59FE5A5059F72B69C14433A3BF49F11B799ED0FC224812161BF3FA882');
INSERT INTO "events" VALUES(20,'01a20e8d-bb7d-720e-a67d-109c567e3c49','run/tickets-run-1',5,'AdapterRegistered',1,'2026-01-05T09:20:00.000000+00:00','daemon','','',0,'',X'A173EDC59FE5A5059F72B69C14433A3BF49F11B799ED0FC224812161BF3FA882',X'85B0DF9C2047BDA656E4680CA07B884B06C7183130A0B1154C1B7AAAAC77E85A');
INSERT INTO "events" VALUES(21,'01a20e8d-bb7d-7397-b903-ca82875ad4e4','run/tickets-run-1',6,'EvaluationStarted',1,'2026-01-05T09:21:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","evaluation_id":"tickets-v1-look-1","attempt":1,"candidate":"tickets-v1","champion":"zero-shot@1","baseline":"zero-shot@1","exam":40,"hard_exam":6,"look":1}',X'85B0DF9C2047BDA656E4680CA07B884B06C7183130A0B1154C1B7AAAAC77E85A',X'A2693322CD46E578C09D7FDC63CECC9BC1632E1D3F26D6427EA042B433B1B716');
INSERT INTO "events" VALUES(22,'01a20e8d-bb7e-72b3-8abc-45d78d34106b','run/tickets-run-1',7,'EvaluationSucceeded',1,'2026-01-05T09:22:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","evaluation_id":"tickets-v1-look-1","artifact":"sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060","results":[{"answerer":"zero-shot@1","kind":"prompt","decoding":"score","n":40,"correct":20,"accuracy":0.5,"low":0.4,"high":0.6,"recall":{"billing":0.5},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3},{"answerer":"tickets-v1","kind":"adapter","decoding":"score","n":40,"correct":32,"accuracy":0.8,"low":0.7000000000000001,"high":0.9,"recall":{"billing":0.8},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3}],"paired":[{"opponent":"zero-shot@1","decoding":"score","n":40,"gained":14,"lost":2,"difference":0.3,"low":0.1,"high":0.5,"p_value":0.004}],"seconds":12.0}',X'A2693322CD46E578C09D7FDC63CECC9BC1632E1D3F26D6427EA042B433B1B716',X'4B0CCAC11065DE7E437E0580199090E453F34A353E92652D6FF3EA737289E78B');
INSERT INTO "events" VALUES(23,'01a20e8d-bb7e-71f3-a593-5def2a5d40b2','run/tickets-run-1',8,'CandidateJudged',1,'2026-01-05T09:23:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","evaluation_id":"tickets-v1-look-1","candidate":"tickets-v1","champion":"zero-shot@1","verdict":"promote","checks":[{"name":"better than baseline","outcome":"pass","detail":"+30 points","value":0.3}],"summary":"tickets-v1 gains 30 points over zero-shot@1"}',X'4B0CCAC11065DE7E437E0580199090E453F34A353E92652D6FF3EA737289E78B',X'D4CBF1805811E572B02B9280594577D6DF239B5AF8810FFBA909EBE2C5AD7072');
INSERT INTO "events" VALUES(24,'01a20e8d-bb7e-72cc-8347-137f9a92c94a','deployment/tickets',1,'AdapterPromoted',1,'2026-01-05T09:24:00.000000+00:00','daemon','','',0,'{"task":"tickets","answerer":"tickets-v1","kind":"adapter","previous":"zero-shot@1","artifact":"sha256-fb3259fabe94efacddd096bc0b6a67dcd41c9b35751af86b6c3d9cd677b06fa1","run_id":"tickets-run-1","gain":0.3}',X'D4CBF1805811E572B02B9280594577D6DF239B5AF8810FFBA909EBE2C5AD7072',X'231C5131F2A0CEC5BE3B581A054F9E553B30638730341D042548CDA7BDEFD057');
INSERT INTO "events" VALUES(25,'01a20e8d-bb82-73be-ab41-b6cd49051184','run/tickets-run-2',1,'DatasetFrozen',1,'2026-01-05T09:25:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","artifact":"sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354","up_to":24,"labels_train":50,"train":42,"valid":8,"exam":40,"hard_exam":6,"per_class":{"billing":20,"general":22},"curation":[{"step":"near-duplicates","count":2,"detail":"removed"}],"warnings":["urgent has 1 example"],"trigger":"50 labels"}',X'231C5131F2A0CEC5BE3B581A054F9E553B30638730341D042548CDA7BDEFD057',X'1D6AD314130386BD955AB0012458CAEE4942B290A68ED9E710AD12F4D97525DE');
INSERT INTO "events" VALUES(26,'01a20e8d-bb82-704e-94d6-0fb17b62344c','run/tickets-run-2',2,'TrainingStarted',1,'2026-01-05T09:26:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","attempt":1,"adapter":"tickets-v2","method":"qlora","base_model":"SmolLM2","base_digest":"sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","quantisation":"nf4","prompt":"zero-shot@1","seed":1,"hyperparameters":{"rank":16,"learning_rate":0.0002}}',X'1D6AD314130386BD955AB0012458CAEE4942B290A68ED9E710AD12F4D97525DE',X'89DBAEC15BD738DA0D109E64DF208235843A22A83C135B0E4AB37AEAD2E01115');
INSERT INTO "events" VALUES(27,'01a20e8d-bb82-7015-a402-578a7c13ed4a','run/tickets-run-2',3,'TrainingProgressed',1,'2026-01-05T09:27:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","step":30,"of":60,"loss":1.5}',X'89DBAEC15BD738DA0D109E64DF208235843A22A83C135B0E4AB37AEAD2E01115',X'6AFD44EB208ABAC931B792CDD1390E9AF97B2F385AE1E06492D6454DC3877018');
INSERT INTO "events" VALUES(28,'01a20e8d-bb83-71a5-8079-99430262ec79','run/tickets-run-2',4,'TrainingSucceeded',1,'2026-01-05T09:28:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","artifact":"sha256-c01b6f7410452e554ada55c08343d5255509b4e4c3387374a681b18ec212eeee","steps":60,"epochs":3.0,"seconds":41.0,"train_loss":0.9,"eval_accuracy":0.75,"temperature":1.2,"peak_memory_mb":900.0,"stopped":"steps"}',X'6AFD44EB208ABAC931B792CDD1390E9AF97B2F385AE1E06492D6454DC3877018',X'AA08AC70B32DB5CC5626B1D355B9EDE9F4CB467A9AA879F1E4809095F2770274');
INSERT INTO "events" VALUES(29,'01a20e8d-bb83-730d-8ae1-099f2d332f5d','run/tickets-run-2',5,'AdapterRegistered',1,'2026-01-05T09:29:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","adapter":"tickets-v2","artifact":"sha256-c01b6f7410452e554ada55c08343d5255509b4e4c3387374a681b18ec212eeee","control":"sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354","method":"qlora","base_digest":"sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","quantisation":"nf4","prompt":"zero-shot@1","temperature":1.2}',X'AA08AC70B32DB5CC5626B1D355B9EDE9F4CB467A9AA879F1E4809095F2770274',X'4141493212529C37DCDA3C1C2FCEA3A812BB9FF8C290F6BC0746767F26814481');
INSERT INTO "events" VALUES(30,'01a20e8d-bb83-73cd-8876-b53f9a000c2b','run/tickets-run-2',6,'EvaluationStarted',1,'2026-01-05T09:30:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","evaluation_id":"tickets-v2-look-1","attempt":1,"candidate":"tickets-v2","champion":"tickets-v1","baseline":"zero-shot@1","exam":40,"hard_exam":6,"look":1}',X'4141493212529C37DCDA3C1C2FCEA3A812BB9FF8C290F6BC0746767F26814481',X'69FEADCA790AA09295234F9FDBF1022BCAA2D6B3C4357DE538DA949B561C9FB7');
INSERT INTO "events" VALUES(31,'01a20e8d-bb84-7315-b285-1bb3fd21566c','run/tickets-run-2',7,'EvaluationSucceeded',1,'2026-01-05T09:31:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","evaluation_id":"tickets-v2-look-1","artifact":"sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354","results":[{"answerer":"zero-shot@1","kind":"prompt","decoding":"score","n":40,"correct":20,"accuracy":0.5,"low":0.4,"high":0.6,"recall":{"billing":0.5},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3},{"answerer":"tickets-v2","kind":"adapter","decoding":"score","n":40,"correct":16,"accuracy":0.4,"low":0.30000000000000004,"high":0.5,"recall":{"billing":0.4},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3}],"paired":[{"opponent":"zero-shot@1","decoding":"score","n":40,"gained":14,"lost":2,"difference":0.3,"low":0.1,"high":0.5,"p_value":0.004}],"seconds":12.0}',X'69FEADCA790AA09295234F9FDBF1022BCAA2D6B3C4357DE538DA949B561C9FB7',X'85A4920FF3D644D01AA36EB4B843679F3F588B53C51FD458A696791119175302');
INSERT INTO "events" VALUES(32,'01a20e8d-bb84-7135-a542-3110ddc38fd1','run/tickets-run-2',8,'CandidateJudged',1,'2026-01-05T09:32:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","evaluation_id":"tickets-v2-look-1","candidate":"tickets-v2","champion":"tickets-v1","verdict":"reject","checks":[{"name":"better than baseline","outcome":"pass","detail":"+30 points","value":0.3}],"summary":"tickets-v2 gains 30 points over zero-shot@1"}',X'85A4920FF3D644D01AA36EB4B843679F3F588B53C51FD458A696791119175302',X'C027D9327F57FA3C847B57B7BE7B354CD0284F9363A47B6A7B686801F4123389');
INSERT INTO "events" VALUES(33,'01a20e8d-bb84-704b-88a1-5886d219db53','run/tickets-run-2',9,'CandidateRejected',1,'2026-01-05T09:33:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","candidate":"tickets-v2","reason":"too weak"}',X'C027D9327F57FA3C847B57B7BE7B354CD0284F9363A47B6A7B686801F4123389',X'8A6B7E15A3EA375EDFE37E4C862498A3D53E3262272B04F6F562545C820FC6A3');
INSERT INTO "events" VALUES(34,'01a20e8d-bb8b-728e-9925-6874ef0521d1','record/rec-001',3,'FeedbackReceived',1,'2026-01-05T09:01:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-001","label":"billing","side":"train","disagrees":true,"answered_by":"zero-shot@1","source":"cli"}',X'8A6B7E15A3EA375EDFE37E4C862498A3D53E3262272B04F6F562545C820FC6A3',X'949C88EACCFE197BF125196A2282F90612BE5A45E52E7949470A5E4616C67713');
INSERT INTO "events" VALUES(35,'01a20e8d-bb8c-72b7-8cf7-e0ce1a62f601','record/rec-001',4,'LabelGiven',1,'2026-01-05T09:02:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-001","label":"billing","side":"train","audit":false,"annotator":"kim"}',X'949C88EACCFE197BF125196A2282F90612BE5A45E52E7949470A5E4616C67713',X'5413BF103C28E875E6ED86D6C1435D5909490EA2D5AA4551C3797061B14523C8');
INSERT INTO "events" VALUES(36,'01a20e8d-bb8c-73a7-b393-79b69d6f8fab','record/rec-004',3,'LabelGiven',1,'2026-01-05T09:03:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-004","label":"urgent","side":"exam","audit":true,"annotator":"kim"}',X'5413BF103C28E875E6ED86D6C1435D5909490EA2D5AA4551C3797061B14523C8',X'9A52A445E9046B1333E9550B19C7808F0253F260F4A537A8121909080E1462B5');
INSERT INTO "events" VALUES(37,'01a20e8d-bb8c-703d-ade2-b6bfdc267d7d','record/rec-004',4,'LabelWithdrawn',1,'2026-01-05T09:04:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-004","label":"urgent","side":"exam","audit":true,"annotator":"kim"}',X'9A52A445E9046B1333E9550B19C7808F0253F260F4A537A8121909080E1462B5',X'8A89A63E618EB37F74D3E6BBE2B3FDC67C2F186DA64FABBC41872FC3D1B3DF7A');
INSERT INTO "events" VALUES(38,'01a20e8d-bb8c-718a-ab68-789f18fc5ff1','deployment/tickets',2,'AdapterRolledBack',1,'2026-01-05T09:05:00.000000+00:00','daemon','','',0,'{"task":"tickets","answerer":"zero-shot@1","kind":"prompt","rolled_back":"tickets-v1","reason":"worse"}',X'8A89A63E618EB37F74D3E6BBE2B3FDC67C2F186DA64FABBC41872FC3D1B3DF7A',X'F47F0A4126CF578E28ED920AE73C8C7AEF6CE5720DD16B652C3F355805F310DC');
INSERT INTO "events" VALUES(39,'01a20e8d-bb8d-71ee-ab0f-2e5623188fbe','loop',1,'LoopPaused',1,'2026-01-05T09:06:00.000000+00:00','daemon','','',0,'{"reason":"maintenance"}',X'F47F0A4126CF578E28ED920AE73C8C7AEF6CE5720DD16B652C3F355805F310DC',X'BF917BB6AEFC097D4F51082DDDCAF727B40370570FCD4E6CC59C1530433D1E8A');
INSERT INTO "events" VALUES(40,'6d5e7caa-d46b-5412-8120-5d2aa2817b12','archive',1,'Archived',1,'2026-01-05T09:06:00.000000+00:00','cli','','',0,'{"first":1,"last":12,"artifact":"sha256-7752b9094ab85c9ef3d63ea725626cd4ac9d6350a2db21887da384b372ae4195","prev_hash":"0000000000000000000000000000000000000000000000000000000000000000","last_hash":"dedcb4bf10ec7eec5b7ca44bb393f1af60dc1e77b054300ddf1e9710ba08a758","bytes":763}',X'BF917BB6AEFC097D4F51082DDDCAF727B40370570FCD4E6CC59C1530433D1E8A',X'3CAF53A951178249C581C7E7181A94FE7A28A17897F68E6BD832FCCDB284D9AE');
INSERT INTO "events" VALUES(41,'f52a887b-e8e5-5793-bce9-0f03525a71bd','archive',2,'Archived',1,'2026-01-05T09:06:00.000000+00:00','cli','','',0,'{"first":13,"last":20,"artifact":"sha256-259e38f48e2e8a92a393ac88d3b95a3a2500bd963a978c7fbf2d3944fde92a2c","prev_hash":"dedcb4bf10ec7eec5b7ca44bb393f1af60dc1e77b054300ddf1e9710ba08a758","last_hash":"85b0df9c2047bda656e4680ca07b884b06c7183130a0b1154c1b7aaaac77e85a","bytes":668}',X'3CAF53A951178249C581C7E7181A94FE7A28A17897F68E6BD832FCCDB284D9AE',X'F3B8FDB3AEDBD5E1CBD6D8E10E9D95C56DFFD736A13E42F95EA102C0B8BAEE3D');
CREATE TABLE lease (
                id INTEGER PRIMARY KEY CHECK (id = 1),
                epoch INTEGER NOT NULL,
                holder TEXT NOT NULL
            );
INSERT INTO "lease" VALUES(1,0,'');
CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO "migrations" VALUES(1,'log, lease, texts and cursors');
INSERT INTO "migrations" VALUES(2,'history by type');
INSERT INTO "migrations" VALUES(3,'sealed segments of old history');
INSERT INTO "migrations" VALUES(4,'checksums of the texts'' rows');
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
INSERT INTO "records" VALUES('rec-008','tickets',8,'2026-01-05T09:08:00.000000+00:00','exam',1,0.3,'rec-008','inbox',27,'356b04eed9334a852bb9e9480c1676e0f492c65eeb0fdd504518ba3af1fcff5f','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
INSERT INTO "records" VALUES('rec-003','tickets',3,'2026-01-05T09:03:00.000000+00:00','train',0,0.3,'rec-003','inbox',27,'e65b3014a8a40140ec5ca03e84a04ba582d1eda58033d4c95492169680a6338b','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','open','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',7.0,0);
INSERT INTO "records" VALUES('rec-006','tickets',6,'2026-01-05T09:06:00.000000+00:00','train',0,0.3,'rec-006','inbox',27,'be9f845c7660216c9dc0f6353c98e0e5ecd3d2a8414b269ac71ed11b02377f2c','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
INSERT INTO "records" VALUES('rec-evil','tickets',9,'2026-01-05T09:09:00.000000+00:00','train',0,0.3,'rec-evil','inbox',41,'6c1976a9fefe431aad96e3b4c0fe417855e0d49bdcbff6f23cd5f6ed6052b541','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','open','[{"name":"misclassified","detail":"margin 0.20","score":0.2}]',0.1,0);
INSERT INTO "records" VALUES('rec-002','tickets',2,'2026-01-05T09:02:00.000000+00:00','train',0,0.3,'rec-002','inbox',27,'7239ba15f27fea005dd3079205b21ab0f1b60b491cc9da0d21bbcd3296cc84a6','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','open','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',8.0,0);
INSERT INTO "records" VALUES('rec-001','tickets',1,'2026-01-05T09:01:00.000000+00:00','train',0,0.3,'rec-001','inbox',27,'f294f38127c5e916257eb7411c61d5b485f96abbd3cba7a69d1a40ca03dc20f5','general','zero-shot@1',0.61,0.2,'billing','billing','kim','2026-01-05T09:02:00.000000+00:00',35,'review','done','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',9.0,0);
INSERT INTO "records" VALUES('rec-004','tickets',4,'2026-01-05T09:04:00.000000+00:00','exam',1,0.3,'rec-004','inbox',27,'43ab76e361481dc25622d66a57eeea0713238f3122b212896246e36edd211c52','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,37,'','open','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',6.0,0);
INSERT INTO "records" VALUES('rec-005','tickets',5,'2026-01-05T09:05:00.000000+00:00','train',0,0.3,'rec-005','inbox',27,'f0642a527b2e1e46b5bd5ad4db4d36fd541bc7239b0ea6d10d10837e3c7dcc36','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
INSERT INTO "records" VALUES('rec-007','tickets',7,'2026-01-05T09:07:00.000000+00:00','train',0,0.3,'rec-007','inbox',27,'5dc52bdc2151f0bdf5634a62c6c9924beb08b794528aa48c093a7185bb388b62','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
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
INSERT INTO "runs" VALUES('tickets-run-1','tickets',16,'promote','standard','50 labels','sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060',50,42,8,40,6,'{"billing":20,"general":22}','[{"step":"near-duplicates","count":2,"detail":"removed"}]','["urgent has 1 example"]','tickets-v1','qlora','zero-shot@1','SmolLM2','sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','nf4',1,'{"rank":16,"learning_rate":0.0002}',0,1,0,'tickets-v1-look-1',60,60,0.9,NULL,0.75,41.0,900.0,'steps','sha256-fb3259fabe94efacddd096bc0b6a67dcd41c9b35751af86b6c3d9cd677b06fa1','promote','tickets-v1 gains 30 points over zero-shot@1','2026-01-05T09:16:00.000000+00:00','2026-01-05T09:22:00.000000+00:00');
INSERT INTO "runs" VALUES('tickets-run-2','tickets',25,'reject','standard','50 labels','sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354',50,42,8,40,6,'{"billing":20,"general":22}','[{"step":"near-duplicates","count":2,"detail":"removed"}]','["urgent has 1 example"]','tickets-v2','qlora','zero-shot@1','SmolLM2','sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','nf4',1,'{"rank":16,"learning_rate":0.0002}',0,1,0,'tickets-v2-look-1',60,60,0.9,NULL,0.75,41.0,900.0,'steps','sha256-c01b6f7410452e554ada55c08343d5255509b4e4c3387374a681b18ec212eeee','reject','tickets-v2 gains 30 points over zero-shot@1','2026-01-05T09:25:00.000000+00:00','2026-01-05T09:31:00.000000+00:00');
CREATE TABLE segments (
                first INTEGER PRIMARY KEY,
                last INTEGER NOT NULL,
                artifact TEXT NOT NULL
            );
INSERT INTO "segments" VALUES(1,12,'sha256-7752b9094ab85c9ef3d63ea725626cd4ac9d6350a2db21887da384b372ae4195');
INSERT INTO "segments" VALUES(13,20,'sha256-259e38f48e2e8a92a393ac88d3b95a3a2500bd963a978c7fbf2d3944fde92a2c');
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
            , checksum BLOB);
INSERT INTO "texts" VALUES('rec-001','tickets','ticket number 1
please help',X'487B21A815B7C84F9C7F0D0CDDC78414','f294f38127c5e916257eb7411c61d5b485f96abbd3cba7a69d1a40ca03dc20f5','','{}',X'FC0B441A385CA85328249F96DA3EE807');
INSERT INTO "texts" VALUES('rec-002','tickets','ticket number 2
please help',X'0D9463C89A3181C5448657338FC0017B','7239ba15f27fea005dd3079205b21ab0f1b60b491cc9da0d21bbcd3296cc84a6','','{}',X'13791904207EC39D06D67909230AC866');
INSERT INTO "texts" VALUES('rec-003','tickets','ticket number 3
please help',X'A05F351E5C78DD6CF740E07C5EF9CBF1','e65b3014a8a40140ec5ca03e84a04ba582d1eda58033d4c95492169680a6338b','','{}',X'83340512CA28A3A621C40616CFDD7DEF');
INSERT INTO "texts" VALUES('rec-004','tickets','ticket number 4
please help',X'030F7240C8D73115ED9A7DAD49D2816A','43ab76e361481dc25622d66a57eeea0713238f3122b212896246e36edd211c52','','{}',X'ACE711E99E218EBBF0714C44E25D39F1');
INSERT INTO "texts" VALUES('rec-005','tickets','ticket number 5
please help',X'B14AF74CBD35215BA9C4FF6D12FEBBFA','f0642a527b2e1e46b5bd5ad4db4d36fd541bc7239b0ea6d10d10837e3c7dcc36','','{}',X'19D14CCF688213A1B452E34FB497EC55');
INSERT INTO "texts" VALUES('rec-006','tickets','ticket number 6
please help',X'204AB3610A1BD174DD607F3A55F47E27','be9f845c7660216c9dc0f6353c98e0e5ecd3d2a8414b269ac71ed11b02377f2c','','{}',X'4C66412C130E4A2191D7425B460BFAD9');
INSERT INTO "texts" VALUES('rec-007','tickets','ticket number 7
please help',X'C06E732A8F9F4DD4610427659B1F2529','5dc52bdc2151f0bdf5634a62c6c9924beb08b794528aa48c093a7185bb388b62','','{}',X'998EBA0CF103F95ABD8F36564218D9E4');
INSERT INTO "texts" VALUES('rec-008','tickets','ticket number 8
please help',X'AF5C71437B2F90CF5FD6719CB80AEB38','356b04eed9334a852bb9e9480c1676e0f492c65eeb0fdd504518ba3af1fcff5f','','{}',X'5AA02F86517E50FA4F0D027677477BD0');
INSERT INTO "texts" VALUES('rec-evil','tickets','[31mpay[0m me [bold]now[/bold] ‮evil1m',X'A83AAEF473DE85859811BE59E276A52A','6c1976a9fefe431aad96e3b4c0fe417855e0d49bdcbff6f23cd5f6ed6052b541','','{}',X'B31236D9BD14CC8AF88B5C0593FA0574');
CREATE INDEX texts_by_customer ON texts (customer) WHERE customer != '';
CREATE INDEX near_duplicates_by_record ON near_duplicates (record_id);
CREATE INDEX events_by_type ON events (type, position);
CREATE INDEX evaluations_by_task ON evaluations (task, position);
CREATE INDEX records_by_cluster ON records (task, cluster);
CREATE INDEX records_by_label ON records (task, side, label_position);
CREATE INDEX records_by_position ON records (task, position);
CREATE INDEX records_by_queue ON records (task, review, priority, position);
CREATE INDEX runs_by_task ON runs (task, position);
CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
               BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER segments_are_never_updated BEFORE UPDATE ON segments
               BEGIN SELECT RAISE(ABORT, 'segments are append-only'); END;
CREATE TRIGGER segments_are_never_deleted BEFORE DELETE ON segments
               BEGIN SELECT RAISE(ABORT, 'segments are append-only'); END;
CREATE TRIGGER events_are_never_updated BEFORE UPDATE ON events
               WHEN new.payload != '' OR old.payload = ''
                 OR (new.position, new.event_id, new.stream, new.version, new.type, new.schema_version,
                     new.recorded_at, new.actor, new.correlation_id, new.causation_id, new.epoch,
                     new.prev_hash, new.hash)
                 IS NOT (old.position, old.event_id, old.stream, old.version, old.type, old.schema_version,
                     old.recorded_at, old.actor, old.correlation_id, old.causation_id, old.epoch,
                     old.prev_hash, old.hash)
                 OR NOT EXISTS (SELECT 1 FROM segments WHERE old.position BETWEEN first AND last)
               BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',41);
COMMIT;
