// Try it: a prompt, and what the dense model and the plan say to it, side by side. GUI thread.
#pragma once

#include "completions/completion_state.h"

#include <QWidget>

#include <memory>

namespace espalier
{

class TokenView;

class TryPanel final : public QWidget
{
    Q_OBJECT
public:
    explicit TryPanel(QWidget* parent = nullptr);
    ~TryPanel() override;

    // As typed, with \n for a line break.
    QString prompt() const;
    void setPrompt(const QString& text);
    int tokens() const;  // at most
    void setTokens(int count);
    const TokenView* dense() const;
    const TokenView* plan() const;
    QWidget* firstControl() const;
    QString text() const;  // everything it says, in order (tests)

public slots:
    void setState(const espalier::CompletionState& state);
    void setEnabledFor(bool enabled, const QString& reason = {});

signals:
    void completeRequested();
    void stopRequested();
    void choicesChanged();  // by the user: prompt, tokens

protected:
    void changeEvent(QEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;

private:
    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
