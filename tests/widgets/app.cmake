# The window against a scripted engine: no torch, no model, no screen.
find_package(Qt6 6.4 REQUIRED COMPONENTS Test)

add_executable(fake-engine widgets/fake_engine.cpp)
target_link_libraries(fake-engine PRIVATE espalier::rpc espalier::plan espalier::options)

add_executable(test_shell widgets/test_shell.cpp)
set_target_properties(test_shell PROPERTIES AUTOMOC ON)
target_include_directories(test_shell PRIVATE ${PROJECT_SOURCE_DIR}/tests)
target_link_libraries(test_shell PRIVATE espalier::options espalier::shell Qt6::Widgets Qt6::Test)
target_compile_definitions(test_shell PRIVATE ESPALIER_FAKE_ENGINE="$<TARGET_FILE:fake-engine>")
add_dependencies(test_shell fake-engine)
add_test(NAME test_shell COMMAND test_shell)
set_tests_properties(test_shell PROPERTIES
    ENVIRONMENT "QT_QPA_PLATFORM=offscreen;LC_ALL=C.UTF-8" LABELS "fast;window" TIMEOUT 120)
