/** The generated stubs of session_service.v1, for plain sessions and for what this library does not wrap. */
export * from "./gen/session_service/v1/info_pb.js";
export * from "./gen/session_service/v1/session_pb.js";
